"""Finished evaluations, read back from their folders, with names that tell them apart."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from ..records import read_predictions
from ..statistics import difference_interval, mcnemar_exact

logger = logging.getLogger(__name__)

TOLD = ("policy", "prune_ratio", "frames")
"""Settings that every name tells."""
NEVER_TOLD = ("benchmark", "weights", "annotations", "repo", "revision", "prompt", "path")
"""Settings that are no part of a name: they follow from others, or belong to the benchmark."""
OF_BENCHMARK = ("subtitles", "cut")
"""Settings that are told only where runs of one benchmark differ in them."""


@dataclass(frozen=True)
class Share:
    """A share of questions with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, counts: Mapping[str, Any]) -> Share:
        """From what results.json holds of some questions."""
        return cls(counts["accuracy"], *counts["interval"], counts["n"])


@dataclass(frozen=True)
class Difference:
    """How much better one run is than another on the same questions."""

    value: float
    low: float
    high: float
    p: float
    """Of McNemar's exact test."""


@dataclass(frozen=True)
class EvaluatedRun:
    """One benchmark asked of one model under some settings."""

    folder: Path
    results: Mapping[str, Any]
    """What results.json holds."""
    records: tuple[Mapping[str, Any], ...]
    """The predictions it is about, by question id."""
    cost: Mapping[str, Any] | None = None
    """What scripts/sweep.py measured, if it did."""

    @property
    def benchmark(self) -> str:
        return self.results["benchmark"]

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.results["settings"]

    @property
    def accuracy(self) -> Share:
        return Share.of(self.results)

    def mean(self, key: str) -> float | None:
        """The mean of a number that some records have. None where none has it."""
        values = [record[key] for record in self.records if record.get(key) is not None]
        return fmean(values) if values else None

    @property
    def groups(self) -> dict[str, dict[str, Share]]:
        """Accuracy by kind of group and label. Kinds with a single label tell nothing and are left out."""
        kinds = {"category": self.results["by_category"], "duration": self.results["by_duration"]}
        return {
            kind: {label: Share.of(counts) for label, counts in labels.items()}
            for kind, labels in (kinds | self.results["by_group"]).items()
            if len(labels) > 1
        }

    def compared_with(self, other: EvaluatedRun) -> Difference | None:
        """Accuracy of this run less that of another; None where they were not asked the same questions."""
        if [record["id"] for record in self.records] != [record["id"] for record in other.records]:
            return None
        mine, theirs = ([record["correct"] for record in run.records] for run in (self, other))
        gains = np.subtract(mine, theirs, dtype=float)
        low, high = difference_interval(gains, [record["video"] for record in self.records])
        p = mcnemar_exact(int((gains > 0).sum()), int((gains < 0).sum()))
        return Difference(float(gains.mean()), low, high, p)


def find_runs(folders: Iterable[str | Path]) -> list[EvaluatedRun]:
    """The evaluations in these folders and anywhere below them, each once.

    Unfinished ones below a folder are left out, with a warning. Raises ValueError naming a folder that does not
    exist, holds none, or is itself unfinished.
    """
    found: dict[Path, EvaluatedRun] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise ValueError(f"runs has {str(folder)!r}: no such folder")
        inside = sorted({path.parent for path in folder.rglob("predictions.jsonl")})
        finished = [path for path in inside if (path / "results.json").is_file()]
        if not finished:
            what = "has an evaluation that is not finished" if inside else "has no evaluation in it"
            raise ValueError(f"runs has {str(folder)!r}, which {what}: run scripts/eval.py first")
        for path in inside:
            if path not in finished:
                logger.warning("left out: %s is not finished", path)
        runs = [read_run(path) for path in finished if path.resolve() not in found]
        found |= {run.folder.resolve(): run for run in sorted(runs, key=_order)}
    if not found:
        raise ValueError("runs is empty: give folders written by scripts/eval.py, e.g. runs=[outputs/eval]")
    return list(found.values())


def _order(run: EvaluatedRun) -> tuple[int, float, str]:
    return run.settings["frames"], run.settings["prune_ratio"], run.settings["policy"]


def read_run(folder: Path) -> EvaluatedRun:
    """One finished evaluation. Raises ValueError naming the file that cannot be read."""
    path = folder / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        cost_path = folder / "cost.json"
        cost = json.loads(cost_path.read_text(encoding="utf-8")) if cost_path.is_file() else None
        records = list(read_predictions(folder).values())[: results["n"]]  # those of a longer run follow
        run = EvaluatedRun(folder, results, tuple(sorted(records, key=lambda record: record["id"])), cost)
        _ = run.accuracy, run.groups, _order(run)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder} is not an evaluation that can be read ({error!r}): run scripts/eval.py on it again, which "
            "asks nothing twice"
        ) from error
    if len(records) != results["n"]:
        raise ValueError(f"{folder} has {len(records)} predictions, results.json is about {results['n']}")
    return run


def name_runs(runs: Sequence[EvaluatedRun]) -> list[str]:
    """What each is called: pruning and frames, then the settings in which these runs differ.

    Runs of several benchmarks with the same settings get the same name, those of one benchmark never.
    """
    shared = set.intersection(*(set(run.settings) for run in runs)) - {*TOLD, *NEVER_TOLD}
    telling = [key for key in sorted(shared) if _differ(runs, key)]
    names = [", ".join([_pruning(run.settings), *_rest(run.settings, telling)]) for run in runs]
    same = [(run.benchmark, name) for run, name in zip(runs, names, strict=True)]
    return [
        f"{name}, {run.folder}" if same.count((run.benchmark, name)) > 1 else name
        for run, name in zip(runs, names, strict=True)
    ]


def _differ(runs: Sequence[EvaluatedRun], key: str) -> bool:
    """Whether runs differ in a setting. One that belongs to the benchmark is compared among runs of the same
    benchmark."""
    kinds = {run.benchmark if key in OF_BENCHMARK else "" for run in runs}
    values = {(run.benchmark if key in OF_BENCHMARK else "", repr(run.settings[key])) for run in runs}
    return len(values) > len(kinds)


def _pruning(settings: Mapping[str, Any]) -> str:
    ratio = settings["prune_ratio"]
    pruning = f"{settings['policy']} {ratio:.0%}" if ratio else "whole"
    return f"{pruning}, {settings['frames']} frames"


def _rest(settings: Mapping[str, Any], telling: Sequence[str]) -> list[str]:
    return [f"{key} {_short(settings[key])}" for key in telling if settings[key] is not None]


def _short(value: Any) -> Any:
    """A checkpoint is known by the folder of its run: outputs/train/RUN/model -> RUN."""
    parts = Path(value).parts if isinstance(value, str) else ()
    return parts[-2] if len(parts) > 1 and parts[-1] == "model" else value
