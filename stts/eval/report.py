"""Predictions -> numbers -> a table on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .records import write_json

Record = Mapping[str, Any]

MEANS = ("short", "long")
"""Lengths of videos that benchmarks are averaged by."""


def summarize(records: Sequence[Record], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of results.json.

    records: one of each question, as the runner writes them. accuracy is over all of them: a reply that names
    no option (unparsed) and a video that could not be read (bad_videos) count as wrong. category_mean weighs
    every category alike, however many questions it has. kept and evidence_recall are means over the questions
    that have them, None where none has.
    """
    groups: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        for kind, labels in {"category": [record["category"] or "all"], **record["groups"]}.items():
            for label in labels:
                groups.setdefault(kind, {}).setdefault(label, []).append(record)
    by_group = {
        kind: {label: _counts(members) for label, members in sorted(parts.items())}
        for kind, parts in groups.items()
    }
    return {
        "benchmark": settings["benchmark"],
        **_counts(records),
        "category_mean": fmean(part["accuracy"] for part in by_group["category"].values()),
        "bad_videos": sum(record["error"] is not None for record in records),
        "kept": _mean(record["kept"] for record in records),
        "evidence_recall": _mean(record["evidence_recall"] for record in records),
        "by_category": by_group.pop("category", {}),
        "by_group": by_group,
        "settings": dict(settings),
        "seconds": round(sum(record["seconds"] for record in records), 3),
    }


def _counts(records: Sequence[Record]) -> dict[str, Any]:
    unparsed = sum(record["predicted"] is None and record["error"] is None for record in records)
    return {
        "accuracy": _mean(record["correct"] for record in records),
        "n": len(records),
        "unparsed": unparsed,
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def results_table(results: Mapping[str, Any]) -> Table:
    """Accuracy by category and by every other grouping, then over all questions."""
    table = _table(results["benchmark"], "accuracy", "questions", "unparsed")
    for kind, labels in {"category": results["by_category"], **results["by_group"]}.items():
        if list(labels) == ["all"]:
            continue
        for label, counts in labels.items():
            table.add_row(escape(label if kind == "category" else f"{kind}: {label}"), *_cells(counts))
        table.add_section()
    if len(results["by_category"]) > 1:
        table.add_row("mean of the categories", _percent(results["category_mean"]), "", "")
    table.add_row("all", *_cells(results), style="bold")
    return table


def summary(results: Mapping[str, Any]) -> str:
    """What the accuracy was reached with, in one line."""
    settings, recall = results["settings"], results["evidence_recall"]
    parts = [
        f"policy {settings['policy']}, prune_ratio {settings['prune_ratio']}, frames {settings['frames']}",
        f"kept {_percent(results['kept'])} of the windows",
        "" if recall is None else f"{_percent(recall)} of those with evidence",
        f"{results['seconds']:.1f} s",
    ]
    if results["bad_videos"]:
        parts.append(f"{results['bad_videos']} questions counted wrong because their video could not be read")
    return "; ".join(part for part in parts if part)


def comparison_table(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    """One line for each of several runs, by the name it is shown under."""
    table = _table("", "kept", "accuracy", "evidence kept", "unparsed", "seconds")
    for name, results in runs.items():
        shares = [_percent(results[key]) for key in ("kept", "accuracy", "evidence_recall")]
        table.add_row(escape(name), *shares, str(results["unparsed"]), f"{results['seconds']:.1f}")
    return table


def _table(name: str, *headings: str) -> Table:
    table = Table(name)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _cells(counts: Mapping[str, Any]) -> list[str]:
    return [_percent(counts["accuracy"]), str(counts["n"]), str(counts["unparsed"])]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def print_results(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Show one evaluation on the terminal."""
    console = console or Console()
    console.print(results_table(results))
    console.print(summary(results), highlight=False, markup=False)


def group_means(results: Mapping[str, Mapping[str, Any]], lengths: Mapping[str, str]) -> dict[str, float]:
    """Means over benchmarks, each weighing the same: of the short ones, of the long ones, of all."""
    chosen = {
        **{f"{length} mean": [name for name in results if lengths[name] == length] for length in MEANS},
        f"mean of {len(results)}": list(results),
    }
    return {
        label: fmean(results[name]["accuracy"] for name in names) for label, names in chosen.items() if names
    }


def group_table(group: str, results: Mapping[str, Mapping[str, Any]], means: Mapping[str, float]) -> Table:
    """One line for each benchmark, then the means."""
    table = _table(group, "accuracy", "questions", "unparsed", "bad videos")
    for name, result in results.items():
        table.add_row(escape(name), *_cells(result), str(result["bad_videos"]))
    table.add_section()
    for label, mean in means.items():
        table.add_row(label, _percent(mean), style="bold")
    return table


def print_group(
    group: str, results: Mapping[str, Mapping[str, Any]], lengths: Mapping[str, str], folder: Path
) -> None:
    """Show the benchmarks of a group and their means, and write them to folder/results.json."""
    means = group_means(results, lengths)
    Console().print(group_table(group, results, means))
    folder.mkdir(parents=True, exist_ok=True)
    accuracies = {name: result["accuracy"] for name, result in results.items()}
    write_json(folder / "results.json", {"benchmark": group, "accuracy": accuracies, "means": means})
    print(f"written to {folder}")
