"""What a sweep found: its cells with what they cost, where nothing is better, written and printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..plan import EvalRun
from ..records import read_predictions, write_json
from ..tasks.question import Question
from .config import SweepConfig
from .pareto import COSTS, Point, Trade, find_trades, frontier_by

SHOWN = 8
"""Trades that are printed of each cost; sweep.json has them all."""


def read_records(folder: Path, questions: Sequence[Question]) -> list[dict[str, Any]]:
    """What a finished cell answered to these questions, in their order."""
    by_id = read_predictions(folder)
    return [by_id[question.id] for question in questions]


def make_point(
    config: Mapping[str, Any], records: Sequence[Mapping[str, Any]], cost: Mapping[str, Any]
) -> Point:
    """The cell of these settings, with what it answered and what that cost."""
    return Point(
        config["policy"],
        config["prune_ratio"],
        config["frames"],
        tuple(record["correct"] for record in records),
        tuple(record["video"] for record in records),
        cost["seconds"],
        cost["visual_tokens"],
    )


def finish_sweep(
    folder: Path,
    cells: Sequence[Mapping[str, Any]],
    runs: Sequence[EvalRun],
    costs: Sequence[Mapping[str, Any]],
    sweep: SweepConfig,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Write sweep.json and sweep.png into the folder and print the table. Returns what sweep.json holds.

    cells, runs, costs: settings, plan and cost of each cell, all of them evaluated.
    """
    from .figure import draw_sweep

    points = [
        make_point(cell, read_records(run.folder, run.questions), cost)
        for cell, run, cost in zip(cells, runs, costs, strict=True)
    ]
    trades = [trade for by in COSTS for trade in find_trades(points, by, sweep.tolerance)]
    summary = summarize_sweep(points, costs, trades, about)
    write_json(folder / "sweep.json", summary)
    title = f"{about['benchmark']}, {about['model']}: {len(points[0].correct)} questions"
    picture = draw_sweep(points, folder / "sweep.png", title)
    print_sweep(summary, trades)
    print(f"written to {folder / 'sweep.json'} and {picture}")
    return summary


def summarize_sweep(
    points: Sequence[Point],
    costs: Sequence[Mapping[str, Any]],
    trades: Sequence[Trade],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of sweep.json: every cell, the frontier under each cost, and the trades."""
    return {
        **about,
        "cells": [
            {
                "name": point.name,
                "policy": point.policy,
                "prune_ratio": point.prune_ratio,
                "frames": point.frames,
                "accuracy": point.accuracy,
                "interval": list(point.interval),
                "questions": len(point.correct),
                "cost": dict(cost),
            }
            for point, cost in zip(points, costs, strict=True)
        ],
        "frontier": {by: [point.name for point in frontier_by(points, by)] for by in COSTS},
        "trades": [trade.to_dict() for trade in trades],
    }


def sweep_table(summary: Mapping[str, Any]) -> Table:
    """A line for each cell; a star where no other cell answers better at the cost."""
    table = Table(title=f"{summary['benchmark']}, {summary['model']}", box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("policy", no_wrap=True)
    for heading in ("frames", "dropped", "accuracy, 95 %", "s/video", "tokens", "multiply-\nadds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for cell in summary["cells"]:
        low, high = (f"{100 * end:.1f}" for end in cell["interval"])
        stars = {by: " *" if cell["name"] in summary["frontier"][by] else "  " for by in COSTS}
        table.add_row(
            cell["policy"],
            str(cell["frames"]),
            f"{cell['prune_ratio']:.0%}",
            f"{100 * cell['accuracy']:.1f} [{low}, {high}]",
            f"{cell['cost']['seconds']:.3g}{stars['seconds']}",
            f"{cell['cost']['visual_tokens']:,.0f}{stars['visual_tokens']}",
            with_unit(cell["cost"]["multiply_adds"]),
        )
    return table


def with_unit(count: float) -> str:
    """1.5e12 -> "1.5 T"."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f}"


def print_sweep(summary: Mapping[str, Any], trades: Sequence[Trade], console: Console | None = None) -> None:
    """Show the cells, and where more frames at a higher ratio beat fewer frames at the same cost."""
    console = console or Console()
    console.print(sweep_table(summary))
    console.print("* nothing answers better at this cost", highlight=False)
    for by in COSTS:
        found = [trade for trade in trades if trade.by == by]
        console.print(f"\nmore frames at a higher ratio, for no more {by.replace('_', ' ')}:", style="bold")
        for trade in found[:SHOWN]:
            sure = "" if trade.clear else " (could be chance)"
            console.print(f"  {trade}{sure}", highlight=False, markup=False, soft_wrap=True)
        if not found:
            console.print("  never better here")
        elif len(found) > SHOWN:
            console.print(f"  and {len(found) - SHOWN} more pairs in sweep.json")
