"""python benchmarks/aux_loss.py: the auxiliary loss, forward and backward, against a matrix of all pairs.

Only F - 1 similarities of each window are wanted. The matrix holds (F * W)^2 of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from common import (
    RESULTS,
    machine,
    measure,
    megabytes,
    peak_memory,
    print_table,
    timing_fields,
    write_results,
)
from torch import Tensor
from torch.nn import functional as F

from stts.losses import temporal_aux_loss
from stts.windows import square_grid, to_windows

WINDOWS, PATCHES = 81, 729


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> Path:
    args = parse(arguments)
    torch.set_num_threads(args.threads)
    facts = machine(args.device)
    rows = [row for frames in args.frames for row in measure_losses(frames, args)]
    cells = [[r["loss"], r["frames"], f"{r['seconds'] * 1e3:.1f}", megabytes(r["peak_bytes"])] for r in rows]
    title = f"auxiliary loss, forward and backward, D = {args.dim}, {args.device}"
    print_table(title, ["loss", "frames", "ms", "peak MB"], cells)
    settings = {key: value for key, value in vars(args).items() if key != "output"}
    return write_results(f"aux_loss-{args.device.split(':')[0]}", settings, rows, args.output, facts)


def all_pairs_loss(scores: Tensor, features: Tensor, frames_per_video: list[int]) -> Tensor:
    """The same loss of one video through the similarities of every window with every other."""
    windows = to_windows(features.float(), square_grid(features.shape[1]), 3).flatten(2)
    windows = F.normalize(windows, dim=-1).flatten(0, 1)  # (F * W, p * p * D)
    similarity = (windows @ windows.T).diagonal(offset=scores.shape[1]).view(len(scores) - 1, -1)
    return (scores[1:] - (1 - similarity)).square().mean()


def measure_losses(frames: int, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for ours, a row for all pairs. Raises ValueError should the two losses differ."""
    torch.manual_seed(0)
    features = torch.randn(frames, PATCHES, args.dim, device=args.device, requires_grad=True)
    scores = torch.rand(frames, WINDOWS, device=args.device, requires_grad=True)
    losses = {"ours": temporal_aux_loss, "all pairs": all_pairs_loss}
    values = {name: loss(scores, features, [frames]).item() for name, loss in losses.items()}
    if abs(values["ours"] - values["all pairs"]) > 1e-4:
        raise ValueError(f"the losses differ: {values}")

    def step(name: str) -> None:
        losses[name](scores, features, [frames]).backward()
        features.grad = scores.grad = None

    steps = {name: (lambda name=name: step(name)) for name in losses}
    peaks = {name: peak_memory(run, args.device) for name, run in steps.items()}
    for name, timing in measure(steps, args.device, args.repeats, warmup=0).items():
        yield {"loss": name, "frames": frames, **timing_fields(timing), "peak_bytes": peaks[name]}


if __name__ == "__main__":
    print(main())
