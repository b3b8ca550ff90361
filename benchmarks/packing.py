"""python benchmarks/packing.py: what laying out the survivors costs, without and with bins."""

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

from stts.packing import bin_slots, pack, plan_bins, plan_packing, unpack
from stts.selection import num_dropped, select_windows
from stts.windows import spread

GRID, POOL, WINDOWS, PATCHES = (27, 27), 3, 81, 729


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, nargs="+", default=[128, 384])
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.3, 0.5, 0.8])
    parser.add_argument("--dim", type=int, default=192, help="width of the tokens that are moved")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> Path:
    args = parse(arguments)
    torch.set_num_threads(args.threads)
    facts = machine(args.device)
    rows = [
        row for frames in args.frames for ratio in args.ratios for row in measure_layout(frames, ratio, args)
    ]
    cells = [
        [
            r["step"],
            r["frames"],
            r["ratio"],
            f"{r['seconds'] * 1e3:.3f}",
            r["bins"],
            megabytes(r["peak_bytes"]),
        ]
        for r in rows
    ]
    columns = ["step", "frames", "ratio", "ms", "bins", "peak MB"]
    print_table(f"packing, D = {args.dim}, {args.device}", columns, cells)
    settings = {key: value for key, value in vars(args).items() if key != "output"}
    return write_results(f"packing-{args.device.split(':')[0]}", settings, rows, args.output, facts)


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
    timings = measure(steps, args.device, args.repeats, warmup=2)
    for name, timing in timings.items():
        yield {
            "step": name,
            "frames": frames,
            "ratio": ratio,
            **timing_fields(timing),
            "bins": bins.num_bins if "bins" in name else None,
            "peak_bytes": peak_memory(steps[name], args.device),
        }


if __name__ == "__main__":
    print(main())
