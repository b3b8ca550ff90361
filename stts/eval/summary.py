"""Predictions -> numbers -> a table on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .records import write_json
from .statistics import group_intervals, share_interval

Record = Mapping[str, Any]

MEANS = ("short", "long")
"""Lengths of videos that benchmarks are averaged by."""
DURATIONS = {"to 15 s": 15, "15 s to 1 min": 60, "1 to 3 min": 180, "3 to 10 min": 600, "10 to 30 min": 1800}
"""Kinds of clips by what is shown of them: label -> seconds that they have at most."""
LONGEST, UNKNOWN = "over 30 min", "unknown"


def summarize(records: Sequence[Record], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of results.json.

    records: one of each question, as the runner writes them. accuracy is over all of them: a reply that names
    no option (unparsed), a video that could not be read (bad_videos) and a question that could not be asked about
    one that was (bad_questions) count as wrong. interval is its 95 %
    interval over videos (statistics.py). category_mean weighs every category alike, however
    many questions it has. kept and evidence_recall are means over the questions that have them, None where none has.
    Nothing here is a time: the same predictions give the same results.
    """
    groups = label_groups(records)
    whole, *parts = counts_with_intervals(records, list(groups.values()))
    by_group: dict[str, dict[str, Any]] = {}
    for (kind, label), part in zip(groups, parts, strict=True):
        by_group.setdefault(kind, {})[label] = part
    return {
        "benchmark": settings["benchmark"],
        **whole,
        "videos": len({record["video"] for record in records}),
        "category_mean": fmean(part["accuracy"] for part in by_group["category"].values()),
        "bad_videos": sum(record["error"] is not None and record["span"] is None for record in records),
        "bad_questions": sum(
            record["error"] is not None and record["span"] is not None for record in records
        ),
        "kept": _mean(record["kept"] for record in records),
        "evidence_recall": _mean(record["evidence_recall"] for record in records),
        "by_category": by_group.pop("category", {}),
        "by_duration": by_group.pop("duration", {}),
        "by_group": by_group,
        "settings": dict(settings),
    }


def label_groups(records: Sequence[Record]) -> dict[tuple[str, str], list[int]]:
    """(kind, label) -> places of the records that carry it; labels sorted, durations by length."""
    groups: dict[tuple[str, str], list[int]] = {}
    for place, record in enumerate(records):
        kinds = {"category": [record["category"] or "all"], **record["groups"]}
        kinds["duration"] = [duration_of(record)]
        for kind, labels in kinds.items():
            for label in labels:
                groups.setdefault((kind, label), []).append(place)
    return dict(sorted(groups.items(), key=lambda group: (group[0][0], _rank(group[0][1]), group[0][1])))


def _rank(label: str) -> int:
    """Durations by length, numbers by value."""
    lengths = [*DURATIONS, LONGEST, UNKNOWN]
    return lengths.index(label) if label in lengths else int(label) if label.isdecimal() else 0


def duration_of(record: Record) -> str:
    """The kind of clip that a question is about, by the seconds from the first frame shown to the last."""
    if record["span"] is None:
        return UNKNOWN
    return next((label for label, most in DURATIONS.items() if record["span"] <= most), LONGEST)


def counts_with_intervals(records: Sequence[Record], groups: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """Accuracy with its interval and counts, over all records and then over each group of places."""
    correct, videos = [record["correct"] for record in records], [record["video"] for record in records]
    places = [range(len(records)), *groups]
    intervals = group_intervals(share_interval, correct, videos, groups)
    return [
        _counts([records[i] for i in part]) | {"interval": interval}
        for part, interval in zip(places, intervals, strict=True)
    ]


def _counts(records: Sequence[Record]) -> dict[str, Any]:
    unparsed = sum(record["predicted"] is None and record["error"] is None for record in records)
    return {
        "accuracy": _mean(record["correct"] for record in records),
        "n": len(records),
        "unparsed": unparsed,
    }


def speed_of(records: Sequence[Record]) -> dict[str, float]:
    """The content of speed.json: the seconds that processes spent on the questions, summed over restarts and
    processes, and what was done in one second. A clip's frames count once."""
    seconds = sum(record["seconds"] for record in records)
    clips = {(r["video"], r["start"], r["end"]): r["frames"] or 0 for r in records}
    return {
        "seconds": round(seconds, 3),
        "questions_per_second": round(len(records) / seconds, 3) if seconds else 0.0,
        "frames_per_second": round(sum(clips.values()) / seconds, 3) if seconds else 0.0,
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def results_table(results: Mapping[str, Any]) -> Table:
    """Accuracy by category, by duration and by every other grouping, then over all questions."""
    table = _table(results["benchmark"], "accuracy", "95 %", "questions", "unparsed")
    kinds = {"category": results["by_category"], "duration": results["by_duration"], **results["by_group"]}
    for kind, labels in kinds.items():
        if list(labels) == ["all"] or (kind == "duration" and len(labels) == 1):
            continue
        for label, counts in labels.items():
            table.add_row(escape(label if kind == "category" else f"{kind}: {label}"), *_cells(counts))
        table.add_section()
    if len(results["by_category"]) > 1:
        table.add_row("mean of the categories", _percent(results["category_mean"]), "", "", "")
    table.add_row("all", *_cells(results), style="bold")
    return table


def summary_line(results: Mapping[str, Any]) -> str:
    """What the accuracy was reached with and how fast, in one line."""
    settings, recall = results["settings"], results["evidence_recall"]
    parts = [
        f"policy {settings['policy']}, prune_ratio {settings['prune_ratio']}, frames {settings['frames']}",
        f"kept {_percent(results['kept'])} of the windows",
        "" if recall is None else f"{_percent(recall)} of those with evidence",
        f"per process {results['questions_per_second']:.1f} questions/s, {results['frames_per_second']:.0f} frames/s",
    ]
    if results["unparsed"]:
        parts.append(f"{results['unparsed']} replies named no option and count as wrong")
    if results["bad_videos"]:
        parts.append(f"{results['bad_videos']} questions counted wrong because their video could not be read")
    if results.get("bad_questions"):  # which older results do not count
        parts.append(f"{results['bad_questions']} counted wrong because they could not be asked")
    return "; ".join(part for part in parts if part)


def _table(name: str, *headings: str, **style: Any) -> Table:
    table = Table(name, **style)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _cells(counts: Mapping[str, Any]) -> list[str]:
    low, high = (f"{100 * end:.1f}" for end in counts["interval"])
    return [_percent(counts["accuracy"]), f"{low} - {high}", str(counts["n"]), str(counts["unparsed"])]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def print_results(results: Mapping[str, Any], console: Console | None = None) -> None:
    """Show one evaluation on the terminal."""
    console = console or Console()
    console.print(results_table(results))
    console.print(summary_line(results), highlight=False, markup=False, soft_wrap=True)


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
    headings = ("accuracy", "95 %", "questions", "unparsed", "bad\nvideos", "bad\nquestions")
    table = _table(group, *headings, box=SIMPLE_HEAD, padding=0)  # fits into 80 columns
    table.columns[0].no_wrap = True
    for name, result in results.items():
        bad = [str(result[key]) for key in ("bad_videos", "bad_questions")]
        table.add_row(escape(name), *_cells(result), *bad)
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
