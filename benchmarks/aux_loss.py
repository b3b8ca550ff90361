"""python benchmarks/aux_loss.py: the auxiliary loss, forward and backward, against a matrix of all pairs.

Only F - 1 similarities of each window are wanted. The matrix holds (F * W)^2 of them. The gradient of the features,
which every loss on them makes, is part of the peak: its size stands beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from common import megabytes, milliseconds, parser, prepare, print_table, run_steps, write_results
from figures import figure, hardware, lines, over_frames
from torch import Tensor
from torch.nn import functional as F

from stts.pruning.losses import temporal_aux_loss
from stts.pruning.windows import square_grid, to_windows

WINDOWS, PATCHES = 81, 729


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    options = parser(__doc__, repeats=3)
    options.add_argument("--frames", type=int, nargs="+", default=[32, 64, 128])
    options.add_argument("--all-pairs-up-to", type=int, default=128, help="frames; the matrix grows with F^2")
    options.add_argument("--dim", type=int, default=64)
    return options.parse_args(arguments)


def main(arguments: list[str] | None = None) -> Path:
    args = parse(arguments)
    facts = prepare(args)
    rows = [row for frames in args.frames for row in measure_losses(frames, args)]
    cells = [
        [
            row["loss"],
            row["frames"],
            milliseconds(row["seconds"]),
            *(megabytes(row[key]) for key in ("peak_bytes", "gradient_bytes")),
        ]
        for row in rows
    ]
    title = f"auxiliary loss, forward and backward, D = {args.dim}, {args.device}"
    print_table(title, ["loss", "frames", "ms", "peak MB", "gradient MB"], cells)
    path = write_results("aux_loss", args, rows, facts)
    draw(path, rows, f"{title}\n{hardware(facts)}")
    return path


def all_pairs_loss(scores: Tensor, features: Tensor, frames_per_video: list[int]) -> Tensor:
    """The same loss of one video through the similarities of every window with every other."""
    windows = to_windows(features.float(), square_grid(features.shape[1]), 3).flatten(2)
    windows = F.normalize(windows, dim=-1).flatten(0, 1)  # (F * W, p * p * D)
    similarity = (windows @ windows.T).diagonal(offset=scores.shape[1]).view(len(scores) - 1, -1)
    return (scores[1:] - (1 - similarity)).square().mean()


def measure_losses(frames: int, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row a loss. Raises ValueError should ours and that of all pairs differ."""
    torch.manual_seed(0)
    features = torch.randn(frames, PATCHES, args.dim, device=args.device, requires_grad=True)
    scores = torch.rand(frames, WINDOWS, device=args.device, requires_grad=True)
    losses = {"ours": temporal_aux_loss}
    if frames <= args.all_pairs_up_to:
        losses["all pairs"] = all_pairs_loss
        values = {name: losses[name](scores, features, [frames]).item() for name in ("ours", "all pairs")}
        if abs(values["ours"] - values["all pairs"]) > 1e-4:
            raise ValueError(f"the losses differ: {values}")

    def step(loss: Callable[..., Tensor]) -> None:
        torch.autograd.grad(loss(scores, features, [frames]), (features, scores))

    steps = {name: (lambda loss=loss: step(loss)) for name, loss in losses.items()}
    for name, fields in run_steps(steps, args).items():
        size = features.numel() * features.element_size()
        yield {"loss": name, "frames": frames, **fields, "gradient_bytes": size}


def draw(path: Path, rows: list[dict[str, Any]], title: str) -> None:
    """Time and memory over frames."""
    scales = {"seconds": (1e3, "ms"), "peak_bytes": (1e-6, "peak MB")}
    with figure(path, title, columns=2) as axes:
        for ax, (key, (scale, label)) in zip(axes, scales.items(), strict=True):
            found = [row for row in rows if row[key]]
            lines(ax, over_frames(found, "loss", key, scale), "frames", label)


if __name__ == "__main__":
    print(main())
