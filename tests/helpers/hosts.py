"""The hosts that tests/hosts/test_battery.py runs, one row each: a tiny random model, inputs, what is known of it.

What a row knows (where patches lie, what sees what) is written here by loops, not taken from stts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    Molmo2ForConditionalGeneration,
    PreTrainedModel,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from stts import STTSConfig, insert_stts
from stts.hosts.base import Clips, Host
from tests.helpers.molmo2 import PATCH_ID, make_inputs, tiny_config
from tests.helpers.paths import ROOT

Video = tuple[int, int, int]
"""Frames, rows and columns of patches."""
VOCABULARY, IMAGE_ID, VIDEO_ID, START_ID, END_ID = 200, 150, 151, 152, 153


@dataclass(frozen=True, eq=False)
class Row:
    """A host, and a batch for it."""

    name: str
    make: Callable[[], PreTrainedModel]
    """The plain model, with weights large enough that every part of it matters."""
    inputs: Callable[..., dict[str, Any]]
    """(videos of each batch row, numbers=None, pad="left") -> forward's arguments; a row's text and pixels follow
    from its number alone."""
    videos: list[list[Video]]
    unit: int
    memory: Callable[[int, int], list[tuple[int, int]]]
    """(rows, columns) of a frame -> row and column of each patch, as they lie in memory."""
    blocks: str
    """Path of the ViT's blocks."""
    visible: Callable[[dict[str, Any]], Tensor]
    """(B, L, L) bool: which tokens of the LLM see which."""
    positions: Callable[[PreTrainedModel, dict[str, Any]], Tensor | None]
    """Positions of all tokens, where the plain model would take others under a mask of four dimensions."""
    placeholders: Callable[[dict[str, Any]], Tensor]
    words: int
    """Tokens below this are words that may be generated."""
    prefix: int = 0
    """Tokens in front of a frame's patches."""
    host: type[Host] | None = None
    """Its description, where stts does not come with one."""
    tolerance: float = 1e-5

    @property
    def total(self) -> list[Video]:
        return [video for row in self.videos for video in row]

    def batch(self, **options: Any) -> dict[str, Any]:
        return self.inputs(self.videos, **options)

    def theirs(self, **options: Any) -> dict[str, Any]:
        """The batch as the plain model takes it."""
        return as_plain(self.batch(**options))

    def alone(self, number: int) -> dict[str, Any]:
        """One row of the batch by itself."""
        return self.inputs([self.videos[number]], numbers=[number])

    def pruned(self, **settings: Any) -> PreTrainedModel:
        """The same weights, pruning; a scorer whose scores are far apart."""
        model = insert_stts(self.plain(), STTSConfig(**settings), self.host)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            nn.init.normal_(model.host.scorer.fc3.weight, std=3.0)
        return model

    def plain(self) -> PreTrainedModel:
        """A fresh copy of the plain model, the same every time."""
        torch.manual_seed(0)
        return self.make().eval()


def as_plain(inputs: dict[str, Any]) -> dict[str, Any]:
    """Without what only pruning models take."""
    return {name: x for name, x in inputs.items() if name != "frames_per_video"}


def grown(model: PreTrainedModel) -> PreTrainedModel:
    """The model with larger weights: at 0.02 a tiny one says much the same whatever it sees."""
    for p in model.parameters():
        if p.ndim > 1:
            nn.init.normal_(p, std=0.08)
        elif p.abs().sum() == 0:
            nn.init.normal_(p, std=0.02)
    return model


def padded(rows: list[list[int]], side: str, fill: int = 0) -> Tensor:
    length = max(map(len, rows))
    pads = [[fill] * (length - len(row)) for row in rows]
    return torch.tensor([p + r if side == "left" else r + p for r, p in zip(rows, pads, strict=True)])


def causal(inputs: dict[str, Any]) -> Tensor:
    batch, length = inputs["input_ids"].shape
    return torch.ones(length, length, dtype=torch.bool).tril().expand(batch, -1, -1)


def row_major(rows: int, cols: int) -> list[tuple[int, int]]:
    return [(r, c) for r in range(rows) for c in range(cols)]


# Qwen3-VL


def qwen3_vl() -> PreTrainedModel:
    vision = {
        "depth": 7,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": 4,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "out_hidden_size": 48,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [3, 5],
    }
    rope = {
        "rope_type": "default",
        "mrope_section": [2, 2, 2],
        "rope_theta": 10000.0,
        "mrope_interleaved": True,
    }
    text = {
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
        "rope_parameters": rope,
    }
    ids = {
        "image_token_id": IMAGE_ID,
        "video_token_id": VIDEO_ID,
        "vision_start_token_id": START_ID,
        "vision_end_token_id": END_ID,
    }
    return grown(
        Qwen3VLForConditionalGeneration(Qwen3VLConfig(vision_config=vision, text_config=text, **ids))
    )


def qwen_inputs(
    videos: list[list[Video]], numbers: list[int] | None = None, pad: str = "left", images: bool = False
) -> dict[str, Any]:
    """Text, then frame by frame a timestamp and its placeholders, text; images: and one of 4 x 6 patches behind."""
    rows, pixels, pictures = [], [], []
    for number, row in zip(numbers or range(len(videos)), videos, strict=True):
        generator = torch.Generator().manual_seed(number)
        ids = [11 + number, 12]
        for frames, height, width in row:
            for frame in range(frames):
                ids += [20 + frame, START_ID, *[VIDEO_ID] * (height * width // 4), END_ID]
            pixels.append(torch.randn(frames * height * width, 3 * 2 * 4 * 4, generator=generator))
        if images:
            ids += [START_ID, *[IMAGE_ID] * 6, END_ID]
            pictures.append(torch.randn(24, 3 * 2 * 4 * 4, generator=generator))
        rows.append([*ids, 30, 31 + number, 32])
    ids = padded(rows, pad)
    inputs = {
        "input_ids": ids,
        "attention_mask": padded([[1] * len(row) for row in rows], pad),
        "mm_token_type_ids": 2 * (ids == VIDEO_ID).int() + (ids == IMAGE_ID).int(),
        "pixel_values_videos": torch.cat(pixels),
        "video_grid_thw": torch.tensor([video for row in videos for video in row]),
    }
    if images:
        inputs |= {
            "pixel_values": torch.cat(pictures),
            "image_grid_thw": torch.tensor([[1, 4, 6]] * len(rows)),
        }
    return inputs


def merge_units(rows: int, cols: int) -> list[tuple[int, int]]:
    """Windows of 2 x 2 one after the other."""
    return [
        (r + i, c + j)
        for r in range(0, rows, 2)
        for c in range(0, cols, 2)
        for i in range(2)
        for j in range(2)
    ]


def mrope(model: PreTrainedModel, inputs: dict[str, Any]) -> Tensor:
    names = ("mm_token_type_ids", "image_grid_thw", "video_grid_thw", "attention_mask")
    known = {name: inputs.get(name) for name in names}
    return model.model.get_rope_index(inputs["input_ids"], **known)[0]


# Molmo2


def molmo2() -> PreTrainedModel:
    return grown(Molmo2ForConditionalGeneration(tiny_config()))


class Described(Host):
    """Molmo2ForConditionalGeneration by hand, with nothing but what every host says."""

    blocks_at = "layers"
    keys = ("pixel_values_videos", "video_token_pooling", "video_grids")
    unit = 3

    @property
    def token_id(self) -> int:
        return self.model.config.image_token_id

    def clips(self, inputs: dict[str, Any]) -> Clips:
        config = self.vision.config
        grid = tuple(side // config.patch_size for side in config.image_size)
        frames = inputs["video_grids"][:, 0].tolist()
        return Clips(tuple(frames), (grid,) * len(frames), self.unit)


def molmo2_inputs(
    videos: list[list[Video]], numbers: list[int] | None = None, pad: str = "left"
) -> dict[str, Any]:
    """make_inputs row by row, so that a row's pixels do not depend on the others."""
    singles = [
        make_inputs([[frames for frames, _, _ in row]], seed=number, text=5 + number)
        for number, row in zip(numbers or range(len(videos)), videos, strict=True)
    ]
    per_token = ("input_ids", "attention_mask", "mm_token_type_ids")
    inputs = {name: padded([one[name][0].tolist() for one in singles], pad) for name in per_token}
    pooling, frames = [], 0
    for one in singles:
        index = one["video_token_pooling"]
        pooling.append(torch.where(index >= 0, index + frames * 36, -1))
        frames += len(one["pixel_values_videos"])
    inputs["video_token_pooling"] = torch.cat(pooling)
    for name in ("pixel_values_videos", "video_grids"):
        inputs[name] = torch.cat([one[name] for one in singles])
    return inputs


def both_ways(inputs: dict[str, Any]) -> Tensor:
    """Causal, and visual tokens see each other."""
    visual = inputs["mm_token_type_ids"] == 1
    return causal(inputs) | (visual[:, :, None] & visual[:, None, :])


# InternVL, as docs/hosts.md describes it


def internvl() -> PreTrainedModel:
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 7,
        "num_attention_heads": 2,
        "image_size": [24, 24],
        "patch_size": [4, 4],
    }
    text = {
        "model_type": "qwen2",
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
    }
    options = {"image_token_id": IMAGE_ID, "downsample_ratio": 0.5, "vision_feature_layer": -1}
    return grown(
        InternVLForConditionalGeneration(InternVLConfig(vision_config=vision, text_config=text, **options))
    )


def internvl_inputs(
    videos: list[list[Video]], numbers: list[int] | None = None, pad: str = "left"
) -> dict[str, Any]:
    """Frames are images of 24 x 24 pixels, 9 tokens each."""
    rows, pixels = [], []
    for number, row in zip(numbers or range(len(videos)), videos, strict=True):
        generator = torch.Generator().manual_seed(number)
        ids = [11 + number, 12]
        for frames, *_ in row:
            for frame in range(frames):
                ids += [20 + frame, *[IMAGE_ID] * 9, 29]
            pixels.append(torch.randn(frames, 3, 24, 24, generator=generator))
        rows.append([*ids, 30, 31 + number, 32])
    return {
        "input_ids": padded(rows, pad),
        "attention_mask": padded([[1] * len(row) for row in rows], pad),
        "pixel_values": torch.cat(pixels),
        "frames_per_video": [frames for row in videos for frames, *_ in row],
    }


def documented(name: str) -> type[Host]:
    """The class that docs/hosts.md shows."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "hosts.md").read_text(), re.DOTALL)
    (code,) = (block for block in blocks if f"class {name}(" in block)
    assert len(code.splitlines()) <= 30
    exec(code, globals())  # so that it can be found again by name, as pickle wants
    return globals()[name]


@cache
def rows() -> list[Row]:
    """All hosts of the battery. A new one is a row."""
    return [
        Row(
            name="qwen3_vl",
            make=qwen3_vl,
            inputs=qwen_inputs,
            videos=[[(4, 8, 12)], [(3, 8, 8), (2, 4, 12)]],
            unit=2,
            memory=merge_units,
            blocks="model.visual.blocks",
            visible=causal,
            positions=mrope,
            placeholders=lambda inputs: inputs["input_ids"] == VIDEO_ID,
            words=IMAGE_ID,
        ),
        Row(
            name="molmo2",
            make=molmo2,
            inputs=molmo2_inputs,
            videos=[[(5, 6, 6)], [(3, 6, 6), (4, 6, 6)]],
            unit=3,
            memory=row_major,
            blocks="model.vision_tower.layers",
            visible=both_ways,
            positions=lambda model, inputs: None,
            placeholders=lambda inputs: inputs["input_ids"] == PATCH_ID,
            words=48,
        ),
        Row(
            name="molmo2_described",
            make=molmo2,
            inputs=molmo2_inputs,
            videos=[[(5, 6, 6)], [(3, 6, 6), (4, 6, 6)]],
            unit=3,
            memory=row_major,
            blocks="model.vision_tower.layers",
            visible=both_ways,
            positions=lambda model, inputs: None,
            placeholders=lambda inputs: inputs["input_ids"] == PATCH_ID,
            words=48,
            host=Described,
        ),
        Row(
            name="internvl",
            make=internvl,
            inputs=internvl_inputs,
            videos=[[(4, 6, 6)], [(3, 6, 6), (2, 6, 6)]],
            unit=2,
            memory=row_major,
            blocks="model.vision_tower.encoder.layer",
            visible=causal,
            positions=lambda model, inputs: None,
            placeholders=lambda inputs: inputs["input_ids"] == IMAGE_ID,
            words=IMAGE_ID,
            prefix=1,
            host=documented("InternVL"),
        ),
    ]
