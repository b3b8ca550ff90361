"""python benchmarks/packing.py: what laying out the survivors costs, without and with bins."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from common import megabytes, milliseconds, parser, prepare, print_table, run_steps, write_results
from figures import figure, hardware, lines, over_frames
from torch import Tensor

from stts.pruning.packing import bin_slots, pack, plan_bins, plan_packing, unpack
from stts.pruning.selection import num_dropped, select_windows
from stts.pruning.windows import spread

GRID, POOL, WINDOWS, PATCHES = (27, 27), 3, 81, 729


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    options = parser(__doc__, repeats=21)
    options.add_argument("--frames", type=int, nargs="+", default=[128, 384])
    options.add_argument("--ratios", type=float, nargs="+", default=[0.3, 0.5, 0.8])
    options.add_argument("--dim", type=int, default=192, help="width of the tokens that are moved")
    return options.parse_args(arguments)


def main(arguments: list[str] | None = None) -> Path:
    args = parse(arguments)
    facts = prepare(args)
    rows = [
        row for frames in args.frames for ratio in args.ratios for row in measure_layout(frames, ratio, args)
    ]
    report(rows, args)
    path = write_results("packing", args, rows, facts)
    draw(path, rows, f"packing, D = {args.dim}, {args.device}\n{hardware(facts)}")
    return path


def random_keep(frames: int, ratio: float, device: str) -> Tensor:
    """(F, N) bool: one video, scores uneven over its frames."""
    torch.manual_seed(0)
    scores = torch.rand(frames, WINDOWS, device=device) + 0.5 * torch.rand(frames, 1, device=device)
    return spread(select_windows(scores, [frames], ratio), GRID, POOL)


def measure_layout(frames: int, ratio: float, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row a step: the cu_seqlens path (plan, gather, scatter), then what bins need on top."""
    keep = random_keep(frames, ratio, args.device)
    num_kept = (frames * WINDOWS - num_dropped(frames, WINDOWS, ratio)) * POOL**2
    x = torch.randn(frames, PATCHES, args.dim, device=args.device)
    packing = plan_packing(keep, num_kept)
    packed = pack(x, packing)
    lengths = packing.lengths()[:frames]
    bins = plan_bins(lengths, PATCHES)
    steps = {
        "plan cu_seqlens": lambda: plan_packing(keep, num_kept),
        "gather": lambda: pack(x, packing),
        "scatter": lambda: unpack(packed, packing),
        "plan bins (host)": lambda: plan_bins(lengths, PATCHES),
        "slots of bins (host)": lambda: bin_slots(bins, lengths),
    }
    for name, fields in run_steps(steps, args).items():
        used = bins.num_bins if "bins" in name else None
        yield {"step": name, "frames": frames, "ratio": ratio, **fields, "bins": used}


def report(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    cells = [
        [
            row["step"],
            row["frames"],
            row["ratio"],
            milliseconds(row["seconds"], 3),
            milliseconds(min(row["repeats"]), 3),
            row["bins"],
            megabytes(row["peak_bytes"]),
        ]
        for row in rows
    ]
    columns = ["step", "frames", "ratio", "ms", "least ms", "bins", "peak MB"]
    print_table(f"packing, D = {args.dim}, {args.device}", columns, cells)


def draw(path: Path, rows: list[dict[str, Any]], title: str) -> None:
    """Time of each step over frames, one figure a ratio."""
    ratios = sorted({row["ratio"] for row in rows})
    with figure(path, title, columns=len(ratios)) as axes:
        for ax, ratio in zip(axes, ratios, strict=True):
            found = [row for row in rows if row["ratio"] == ratio]
            lines(ax, over_frames(found, "step", "seconds", 1e3), f"frames, {ratio:.0%} dropped", "ms")


if __name__ == "__main__":
    print(main())
