"""python benchmarks/memory.py --preset molmo2_4b: bytes that a training step keeps for its backward pass, counted.

The forward runs on the meta device, where tensors have shapes and no values, so that a count for Molmo2-4B takes
seconds on any machine and is the same on all. Attention is that of a GPU: flash kernels, varlen after pruning; masks
of the LLM are left out, as block_sparse attention does not lay them out either. Weights, their gradients and what a
kernel needs for a moment are not counted; benchmarks/speed.py measures the peak where there is a device.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from common import parser, prepare, print_table, write_results
from figures import figure, lines
from presets import PRESETS, build_model, make_inputs, preset_config
from torch import Tensor
from torch.nn import functional as F

from stts import STTSConfig, STTSMolmo2ForConditionalGeneration


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    options = parser(__doc__, "meta")
    options.add_argument("--preset", choices=PRESETS, default="molmo2_4b")
    options.add_argument("--frames", type=int, nargs="+", default=[64, 128, 256])
    options.add_argument("--ratios", type=float, nargs="+", default=[0.5, 0.8])
    args = options.parse_args(arguments)
    args.device = "meta"
    return args


def main(arguments: list[str] | None = None) -> Path:
    args = parse(arguments)
    facts = prepare(args)
    model = build_model(preset_config(args.preset, settings(0.0)), "meta", torch.bfloat16).train()
    rows = [row for frames in args.frames for row in count_frames(model, frames, args.ratios)]
    cells = [[r["ratio"], r["frames"], f"{r['saved_bytes'] / 1e9:.1f}", f"{r['share']:.3f}"] for r in rows]
    title = f"saved for the backward pass, {args.preset}, bfloat16"
    print_table(title, ["dropped", "frames", "GB", "of unpruned"], cells)
    path = write_results(f"memory-{args.preset}", args, rows, facts)
    draw(path, rows, title)
    return path


def settings(ratio: float) -> STTSConfig:
    return STTSConfig(prune_ratio=ratio, attention="varlen")


def count_frames(
    model: STTSMolmo2ForConditionalGeneration, frames: int, ratios: list[float]
) -> Iterator[dict[str, Any]]:
    """A row a ratio, 0 for unpruned."""
    inputs = make_inputs(model.config, frames, "meta")
    unpruned = count_unpruned(model, inputs, frames)
    for ratio in (0.0, *ratios):
        saved = count(model, inputs, settings(ratio)) if ratio else unpruned
        yield {"frames": frames, "ratio": ratio, "saved_bytes": saved, "share": round(saved / unpruned, 4)}


def count_unpruned(model: STTSMolmo2ForConditionalGeneration, inputs: dict[str, Any], frames: int) -> int:
    """All but one window, dropped behind the whole ViT: transformers' own forward reads values on its way."""
    windows = inputs["video_token_pooling"].shape[0]
    return count(model, inputs, settings(1.1 / windows).replace(policy="evs"))


def count(model: STTSMolmo2ForConditionalGeneration, inputs: dict[str, Any], stts: STTSConfig) -> int:
    """Bytes of all storages that one forward saves, weights and inputs left out."""
    model.stts = stts
    sizes: dict[int, int] = {}
    held = []  # so that no address is used again
    tensors = [x for x in inputs.values() if isinstance(x, Tensor)]
    known = {x.untyped_storage()._cdata for x in (*model.parameters(), *tensors)}

    def see(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in known:
            sizes[storage._cdata] = storage.nbytes()
            held.append(x)
        return x

    with as_on_a_gpu(), torch.autograd.graph.saved_tensors_hooks(see, lambda x: x):
        loss = model(**inputs, use_cache=False).loss
    assert loss.requires_grad
    return sum(sizes.values())


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Inside, SDPA keeps what FlashAttention keeps; autocast, which the meta device does not know, is none."""
    with (
        patch.object(F, "scaled_dot_product_attention", flash),
        patch.object(torch, "autocast", lambda *args, **kwargs: nullcontext()),
    ):
        yield


def flash(q: Tensor, k: Tensor, v: Tensor, *args, scale: float | None = None, **kwargs) -> Tensor:
    """FlashAttention without a mask: heads of a multiple of 8, as many of keys as of queries."""
    head_dim, groups = q.shape[-1], q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = (x.repeat_interleave(groups, 1) for x in (k, v))
    q, k, v = (F.pad(x, (0, -head_dim % 8)) if head_dim % 8 else x for x in (q, k, v))
    out, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, False, False, scale=scale)
    return out[..., :head_dim]


def draw(path: Path, rows: list[dict[str, Any]], title: str) -> None:
    """Gigabytes over frames, a line a ratio."""
    ratios = dict.fromkeys(row["ratio"] for row in rows)
    series = {
        "unpruned" if ratio == 0 else f"{ratio:.0%} dropped": {
            r["frames"]: r["saved_bytes"] / 1e9 for r in rows if r["ratio"] == ratio
        }
        for ratio in ratios
    }
    with figure(path, title) as (ax,):
        lines(ax, series, "frames", "GB")


if __name__ == "__main__":
    print(main())
