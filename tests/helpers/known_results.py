"""What the shipped tiny Molmo2 says of fixed inputs, under many settings: to be held against what it said before.

    PYTHONPATH=. python tests/helpers/known_results.py [FOLDER]

writes the numbers that tests/hosts/test_known_results.py compares with; into FOLDER every tensor, whole.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import stts
from stts.data import Clip
from stts.pruning.windows import window_index
from tests.helpers.paths import DATA

FILE = DATA / "tiny_results.safetensors"
VIDEO = ("pixel_values_videos", "video_token_pooling", "video_grids")
TEXT = ("input_ids", "attention_mask", "mm_token_type_ids")
SAMPLE = 96
"""Entries of the logits that are kept."""


@cache
def tiny() -> tuple[nn.Module, Any]:
    """Its scorer is fresh. Shared: whoever changes its settings puts them back."""
    torch.manual_seed(0)
    return stts.load("tiny")


def example(frames: int, seed: int) -> dict[str, Tensor]:
    """A clip of noise that changes little by little, and a question about it; 0 frames: the question alone."""
    random, (_, processor) = np.random.default_rng(seed), tiny()
    pixels = random.integers(0, 255, (1, 96, 96, 3)) + random.integers(-40, 40, (frames, 96, 96, 3)).cumsum(0)
    clip = Clip(pixels.clip(0, 255).astype(np.uint8), np.arange(frames) * 0.5) if frames else None
    messages = [
        {"role": "user", "content": "Which colour came first?"},
        {"role": "assistant", "content": "red" * (1 + seed % 2)},
    ]
    return processor(messages, clip)


def image() -> dict[str, Tensor]:
    """A whole view and two crops, pooled 4 x 4, and its tokens."""
    config, generator = tiny()[0].config, torch.Generator().manual_seed(9)
    vision = config.vision_config
    side = vision.image_size[0] // vision.patch_size
    windows = window_index((side, side), 4)
    count = round(len(windows) ** 0.5)
    places = torch.arange(3).view(-1, 1, 1) * side * side
    patches = torch.randn(3, side * side, vision.patch_size**2 * 3, generator=generator)
    ids = [
        config.image_start_token_id,
        *[config.image_patch_id] * (3 * len(windows)),
        config.image_end_token_id,
    ]
    return {
        "pixel_values": patches,
        "image_token_pooling": torch.where(windows >= 0, windows + places, -1).flatten(0, 1),
        "image_grids": torch.tensor([[count, count, 2 * count, count]]),
        "input_ids": torch.tensor(ids),
    }


def joined(examples: list[dict[str, Tensor]], how: str) -> dict[str, Tensor]:
    """A row each, padded on the "right" or the "left", or all "packed" into one."""
    lengths = [len(one["input_ids"]) for one in examples]
    fills = {"input_ids": 0, "labels": -100, "mm_token_type_ids": 0, "attention_mask": 0}
    examples = [one | {"attention_mask": torch.ones_like(one["input_ids"])} for one in examples]
    if how == "packed":
        batch = {name: torch.cat([one[name] for one in examples])[None] for name in fills}
        batch["position_ids"] = torch.cat([torch.arange(n) for n in lengths])[None]
        batch["sequence_ids"] = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))[None]
    else:
        batch = {
            name: nn.utils.rnn.pad_sequence(
                [one[name] for one in examples], batch_first=True, padding_value=fill, padding_side=how
            )
            for name, fill in fills.items()
        }
    videos = [one for one in examples if VIDEO[0] in one]
    patches, start, pooling = videos[0][VIDEO[0]].shape[1], 0, []
    for one in videos:
        index = one["video_token_pooling"]
        pooling.append(torch.where(index < 0, -1, index + start))
        start += len(one[VIDEO[0]]) * patches
    batch |= {name: torch.cat([one[name] for one in videos]) for name in VIDEO}
    return batch | {"video_token_pooling": torch.cat(pooling)}


def rows(how: str = "right") -> dict[str, Tensor]:
    return joined([example(6, 1), example(0, 2), example(4, 3)], how)


def given() -> dict[str, Tensor]:
    batch = rows()
    windows = len(batch["video_token_pooling"]) // 10
    scores = torch.rand(10, windows, generator=torch.Generator().manual_seed(5))
    return batch | {"window_scores": scores}


def weighted() -> dict[str, Tensor]:
    batch = rows("left")
    weights = torch.rand(batch["labels"].shape, generator=torch.Generator().manual_seed(6))
    return batch | {"loss_weights": weights}


def with_image() -> dict[str, Tensor]:
    """An image in front of the question, in a row with a video and in one without."""
    picture, examples = image(), [example(5, 4), example(0, 7)]
    ids = picture.pop("input_ids")
    for one in examples:
        for name, values in (
            ("input_ids", ids),
            ("labels", ids * 0 - 100),
            ("mm_token_type_ids", ids * 0 + 1),
        ):
            one[name] = torch.cat([one[name][:1], values, one[name][1:]])
    batch = joined(examples, "right") | {name: torch.cat([x, x]) for name, x in picture.items()}
    first, second = batch["image_token_pooling"].chunk(2)
    moved = torch.where(second < 0, -1, second + picture["pixel_values"].shape[:2].numel())
    return batch | {"image_token_pooling": torch.cat([first, moved])}


def encoded() -> dict[str, Any]:
    """The videos encoded by themselves first, with gradients."""
    batch = rows()
    visual = tiny()[0].train().encode_videos(**{name: batch[name] for name in VIDEO})
    return {name: x for name, x in batch.items() if name not in VIDEO[:2]} | {"visual": visual}


SETTINGS: dict[str, tuple[Callable[[], dict[str, Any]], dict[str, Any]]] = {
    "whole": (rows, {"prune_ratio": 0.0}),
    "scorer_50": (rows, {"prune_ratio": 0.5}),
    "scorer_80": (lambda: rows("left"), {"prune_ratio": 0.8}),
    "compact": (rows, {"position_ids": "compact"}),
    "temporal": (rows, {"policy": "temporal"}),
    "tome_50": (rows, {"policy": "tome"}),
    "tome_80": (rows, {"policy": "tome", "prune_ratio": 0.8}),
    "uniform_50": (rows, {"policy": "uniform"}),
    "uniform_80": (rows, {"policy": "uniform", "prune_ratio": 0.8}),
    "evs_50": (rows, {"policy": "evs"}),
    "evs_80": (rows, {"policy": "evs", "prune_ratio": 0.8}),
    "given": (given, {"policy": "given"}),
    "weighted": (weighted, {"detach_targets": True}),
    "packed_0": (lambda: rows("packed"), {"prune_ratio": 0.0}),
    "packed_50": (lambda: rows("packed"), {}),
    "packed_80": (lambda: rows("packed"), {"prune_ratio": 0.8, "position_ids": "compact"}),
    "image_0": (with_image, {"prune_ratio": 0.0}),
    "image_50": (with_image, {}),
    "image_80": (with_image, {"prune_ratio": 0.8}),
    "visual": (encoded, {}),
}
"""By name: how its batch is made, and what differs from the default settings."""


def tensors(name: str) -> dict[str, Tensor]:
    """All that comes out under these settings: the forward pass in training, its gradients, and a greedy reply."""
    make, changes = SETTINGS[name]
    model, _ = tiny()
    before, model.stts = model.stts, model.stts.replace(**changes)
    try:
        torch.manual_seed(0)
        batch = make()
        model.train().zero_grad()
        out = model(**batch, use_cache=False)
        out.loss.backward()
        found = {
            key: out.get(key) for key in ("logits", "loss", "lm_loss", "aux_loss", "keep_mask", "scores")
        }
        found |= {f"grad/{key}": p.grad for key, p in model.named_parameters()}
        model.zero_grad()
        prompt = {k: v for k, v in batch.items() if k not in ("labels", "loss_weights", "sequence_ids")}
        if "packed" not in name:
            options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
            found["reply"] = model.eval().generate(**prompt, **options)[:, -6:]
    finally:
        model.stts = before
        model.zero_grad()
        model.eval()
    return {key: x.detach().clone() for key, x in found.items() if x is not None}


def numbers(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """A few kilobytes that change when any of the tensors does: of logits a sample; of gradients, in the order of
    their names, the norm of each and its product with a random vector."""
    generator = torch.Generator().manual_seed(0)
    logits = found["logits"].flatten()
    kept = {key: x for key, x in found.items() if "/" not in key and key not in ("logits", "keep_mask")}
    kept["shape"] = torch.tensor(found["logits"].shape)
    kept["logits"] = logits[torch.randint(len(logits), (SAMPLE,), generator=generator)]
    kept["norm"] = found["logits"].double().norm()
    kept["keep_mask"] = found["keep_mask"].to(torch.uint8)
    gradients = [found[key].double().flatten() for key in sorted(found) if "/" in key]
    signs = [torch.randint(2, x.shape, generator=generator) * 2.0 - 1 for x in gradients]
    kept["gradients"] = torch.stack(
        [torch.stack([x.norm(), x @ sign.double()]) for x, sign in zip(gradients, signs, strict=True)]
    )
    return kept


def main(folder: str | None = None) -> None:
    stored = {}
    for name in SETTINGS:
        found = tensors(name)
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            save_file({key: x.contiguous() for key, x in found.items()}, Path(folder, f"{name}.safetensors"))
        stored |= {f"{name}/{key}": x.contiguous() for key, x in numbers(found).items()}
    if not folder:
        save_file(stored, FILE)


if __name__ == "__main__":
    main(*sys.argv[1:])
