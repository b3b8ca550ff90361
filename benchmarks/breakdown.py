"""python benchmarks/breakdown.py --preset cpu-mid: where the time of a forward pass goes, part by part.

Parts are timed where they are called; on CUDA the device is waited for around each, so that their sum is more than
the step takes by itself.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import default_device, milliseconds, now, on_cuda, parser, prepare, print_table, write_results
from figures import figure, hardware, stacked
from presets import PRESETS, build_model, make_inputs, preset_config
from speed import prefill

import stts.hosts.molmo2
import stts.hosts.survivors
import stts.pruning.deciding
import stts.pruning.policies
import stts.pruning.run
from stts import STTSConfig, STTSMolmo2ForConditionalGeneration
from stts.hosts.llm_attention import choose_llm_attention

PARTS = (
    "patch embedding",
    "dense blocks",
    "scorer",
    "select",
    "biased block",
    "plan and gather",
    "ragged blocks",
    "adapter",
    "placeholders",
    "LLM",
    "head",
    "rest",
)
OVERHEAD = ("scorer", "select", "plan and gather", "placeholders")
"""What only a pruned run has; of placeholders, unpruned runs have a share too, inside "rest"."""


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    options = parser(__doc__, default_device(), repeats=3)
    options.add_argument("--preset", choices=PRESETS, default="tiny")
    options.add_argument("--frames", type=int, default=16)
    options.add_argument("--ratios", type=float, nargs="+", default=[0.0, 0.5, 0.8])
    return options.parse_args(arguments)


def main(arguments: list[str] | None = None) -> Path:
    args = parse(arguments)
    facts = prepare(args)
    config = preset_config(args.preset, STTSConfig())
    dtype = torch.bfloat16 if on_cuda(args.device) else torch.float32
    model = build_model(config, args.device, dtype, choose_llm_attention(None, args.device)).eval()
    inputs = make_inputs(config, args.frames, args.device)
    del inputs["labels"]
    runs = {ratio: [] for ratio in args.ratios}
    for _ in range(args.repeats + 1):
        for ratio, seconds in runs.items():
            seconds.append(time_parts(model, inputs, ratio))
    rows = [{"ratio": ratio, **medians(seconds[1:])} for ratio, seconds in runs.items()]
    report(rows, args)
    path = write_results(f"breakdown-{args.preset}", args, rows, facts)
    draw(path, rows, f"forward of {args.preset}, {args.frames} frames\n{hardware(facts)}")
    return path


def time_parts(
    model: STTSMolmo2ForConditionalGeneration, inputs: dict[str, Any], ratio: float
) -> dict[str, float]:
    """Seconds of each part of one forward pass."""
    model.stts = model.stts.replace(prune_ratio=ratio)
    spent: dict[str, float] = defaultdict(float)
    with timed_parts(model, spent):
        start = now(model.device)
        prefill(model, inputs)
        total = now(model.device) - start
    return {part: spent[part] for part in PARTS[:-1]} | {"rest": total - sum(spent.values()), "total": total}


@contextmanager
def timed_parts(model: STTSMolmo2ForConditionalGeneration, spent: dict[str, float]) -> Iterator[None]:
    """Inside, every part adds the time of its calls to spent; a part called by another belongs to that one."""
    places = list(find_parts(model))
    before = [(owner, name, owner.__dict__.get(name)) for owner, name, _ in places]
    busy: list[str] = []
    try:
        for owner, name, part in places:
            setattr(owner, name, timed(getattr(owner, name), part, spent, busy, model.device))
        yield
    finally:
        for owner, name, original in before:
            if original is None:
                delattr(owner, name)
            else:
                setattr(owner, name, original)


def find_parts(model: STTSMolmo2ForConditionalGeneration) -> Iterator[tuple[Any, str, str]]:
    """(owner, attribute, part) of every call that is timed."""
    inner, run = model.model, stts.pruning.run
    tower, biased = model.host.vision, model.stts.insert_after + 1
    yield tower.patch_embedding, "forward", "patch embedding"
    for i, block in enumerate(tower.layers):
        pruned_part = "biased block" if i == biased else "ragged blocks"
        yield block, "forward", pruned_part if model.stts.prune_ratio and i >= biased else "dense blocks"
    yield tower.scorer, "score_windows", "scorer"
    yield stts.pruning.policies, "select_windows", "select"
    yield stts.pruning.deciding, "key_bias", "select"
    yield run, "plan_packing", "plan and gather"
    yield stts.hosts.molmo2.Molmo2, "project", "adapter"
    yield inner.multi_modal_projector, "forward", "adapter"
    yield stts.hosts.survivors, "keep_tokens", "placeholders"
    yield stts.hosts.survivors, "plan_survivors", "placeholders"
    yield inner.language_model, "forward", "LLM"
    yield model.lm_head, "forward", "head"


def timed(
    call: Callable, part: str, spent: dict[str, float], busy: list[str], device: torch.device
) -> Callable:
    """A function that does what call does, and adds up how long it takes."""

    def timed_call(*args: Any, **kwargs: Any) -> Any:
        if busy:
            return call(*args, **kwargs)
        busy.append(part)
        start = now(device)
        try:
            return call(*args, **kwargs)
        finally:
            spent[part] += now(device) - start
            busy.pop()

    return timed_call


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """Median of each part, and the share of the step that pruning itself takes."""
    parts = {part: round(median(run[part] for run in runs), 6) for part in (*PARTS, "total")}
    return parts | {"overhead_share": round(sum(parts[part] for part in OVERHEAD) / parts["total"], 4)}


def names(rows: list[dict[str, Any]]) -> list[str]:
    return ["unpruned" if row["ratio"] == 0 else f"pruned {row['ratio']:.0%}" for row in rows]


def report(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    cells = [[part, *(milliseconds(row[part]) for row in rows)] for part in (*PARTS, "total")]
    cells.append(["scorer, select, gather, placeholders", *(f"{row['overhead_share']:.1%}" for row in rows)])
    print_table(f"forward of {args.preset}, {args.frames} frames, {args.device}", ["ms", *names(rows)], cells)


def draw(path: Path, rows: list[dict[str, Any]], title: str) -> None:
    """A bar each, cut into its parts."""
    with figure(path, title) as (ax,):
        stacked(ax, names(rows), {part: [row[part] * 1e3 for row in rows] for part in PARTS}, "ms")


if __name__ == "__main__":
    print(main())
