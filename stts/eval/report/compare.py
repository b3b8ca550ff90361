"""Two runs over the same questions: which is better, and whether that could be chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..records import prediction_files
from ..statistics import difference_interval, group_intervals, mcnemar_exact
from ..summary import label_groups
from .runs import EvaluatedRun, read_run

Record = Mapping[str, Any]
SAME = ("question", "options", "answer")
"""What two records of a question must agree in."""


def compare_runs(first: str | Path, second: str | Path) -> dict[str, Any]:
    """Compare two finished evaluations, question by question.

    first, second: folders that scripts/eval.py wrote, of one benchmark. Differences are second minus first; interval
    is their 95 % paired interval over videos (statistics.py); p_value is that of McNemar's
    exact test, which takes questions for independent. Raises ValueError for a folder that is no finished run, and
    where the runs were not asked the same.
    """
    a, b = (_read_finished(Path(folder)) for folder in (first, second))
    if a.benchmark != b.benchmark:
        raise ValueError(f"{first} is about {a.benchmark}, {second} about {b.benchmark}: must be the same")
    of_a, of_b = ({record["id"]: record for record in run.records} for run in (a, b))
    _check_same(of_a, of_b, first, second)
    pairs = [(record, of_b[name]) for name, record in of_a.items()]
    right = np.array([[one["correct"], other["correct"]] for one, other in pairs], dtype=np.float64)
    groups = label_groups([record for record, _ in pairs])
    whole, *parts = _differences(right, [record["video"] for record, _ in pairs], list(groups.values()))
    by_group: dict[str, dict[str, Any]] = {}
    for (kind, label), part in zip(groups, parts, strict=True):
        by_group.setdefault(kind, {})[label] = part
    only = int((right[:, 0] > right[:, 1]).sum()), int((right[:, 1] > right[:, 0]).sum())
    return {
        "benchmark": a.benchmark,
        "runs": [str(first), str(second)],
        **whole,
        "only_first": only[0],
        "only_second": only[1],
        "p_value": mcnemar_exact(*only),
        "unparsed": [run.results["unparsed"] for run in (a, b)],
        "by_group": by_group,
        "settings": {key: [a.settings.get(key), b.settings.get(key)] for key in _differing(a, b)},
    }


def _read_finished(folder: Path) -> EvaluatedRun:
    if not (folder / "results.json").is_file():
        raise ValueError(f"{folder} holds no finished evaluation: there is no results.json")
    if not prediction_files(folder):
        raise ValueError(f"{folder} is a group of benchmarks: compare them one by one")
    return read_run(folder)


def _check_same(
    of_a: Mapping[str, Record], of_b: Mapping[str, Record], first: str | Path, second: str | Path
) -> None:
    if alone := sorted(set(of_a) ^ set(of_b)):
        where = first if alone[0] in of_a else second
        raise ValueError(
            f"{len(alone)} questions were asked in one run only, such as {alone[0]!r} in {where}: must be the same"
        )
    for name, record in of_a.items():
        if other := [key for key in SAME if record[key] != of_b[name][key]]:
            raise ValueError(
                f"question {name!r} has another {other[0]} in {second}: the runs read different editions of the "
                "benchmark"
            )


def _differences(
    right: np.ndarray, videos: Sequence[str], groups: Sequence[Sequence[int]]
) -> list[dict[str, Any]]:
    """right: (n, 2), 1 where a run is right. Of all questions and then of each group of places."""
    places = [list(range(len(right))), *groups]
    intervals = group_intervals(difference_interval, right[:, 1] - right[:, 0], videos, groups)
    return [
        {
            "n": len(part),
            "accuracy": right[part].mean(0).tolist(),
            "difference": float((right[part, 1] - right[part, 0]).mean()),
            "interval": interval,
        }
        for part, interval in zip(places, intervals, strict=True)
    ]


def _differing(a: EvaluatedRun, b: EvaluatedRun) -> list[str]:
    keys = dict.fromkeys([*a.settings, *b.settings])
    return [key for key in keys if a.settings.get(key) != b.settings.get(key)]


def comparison_rows(found: Mapping[str, Any]) -> Table:
    """Differences in points, of every kind of question and of all."""
    table = Table(escape(found["benchmark"]))
    for heading in ("questions", "first", "second", "difference", "95 %"):
        table.add_column(heading, justify="right")
    for kind, parts in found["by_group"].items():
        if len(parts) > 1:
            for label, part in parts.items():
                table.add_row(escape(label if kind == "category" else f"{kind}: {label}"), *_cells(part))
            table.add_section()
    table.add_row("all", *_cells(found), style="bold")
    return table


def _cells(part: Mapping[str, Any]) -> list[str]:
    low, high = part["interval"]
    shares = [f"{100 * share:.1f} %" for share in part["accuracy"]]
    return [
        str(part["n"]),
        *shares,
        f"{100 * part['difference']:+.1f}",
        f"{100 * low:+.1f} to {100 * high:+.1f}",
    ]


def print_compared(folders: Any) -> None:
    """Compare the two folders that a command line names, and show it. Raises ValueError unless they are two."""
    if not isinstance(folders, list) or len(folders) != 2 or not all(isinstance(f, str) for f in folders):
        raise ValueError(f"compare is {folders!r}, must be two folders: compare=[FOLDER,FOLDER]")
    print_comparison(compare_runs(*folders))


def print_comparison(found: Mapping[str, Any], console: Console | None = None) -> None:
    """Show a comparison on the terminal."""
    console = console or Console()
    for name, folder in zip(("first", "second"), found["runs"], strict=True):
        console.print(f"{name}: {folder}", highlight=False, markup=False, soft_wrap=True)
    for key, (one, other) in found["settings"].items():
        console.print(f"  {key}: {one} and {other}", highlight=False, markup=False, soft_wrap=True)
    console.print(comparison_rows(found))
    low, high = found["interval"]
    verdict = "could be chance" if low <= 0 <= high else "is more than chance would give"
    console.print(
        f"only the first is right on {found['only_first']} questions, only the second on {found['only_second']}: "
        f"McNemar's exact test p = {found['p_value']:.3g}; over videos the difference {verdict} (95 %); unparsed "
        f"replies, counted wrong: {found['unparsed'][0]} and {found['unparsed'][1]}",
        highlight=False,
    )
