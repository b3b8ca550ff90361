"""python benchmarks/accuracy.py [preset=quick]: accuracy against budget, policy by policy; --help explains every key.

Fine-tunes one base under every policy, prune ratio and seed and asks all of them the same questions about generated
clips of every cell of the difficulty grid (stts/data/synthetic/kinds.py). With base.steps the base itself is
fine-tuned first, without pruning, on clips of its own. The same command goes on where it stopped; results are
written after every seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_figure import draw
from common import machine
from intervals import mean_and_interval
from rich.console import Console
from rich.table import Table

from stts.comparison.arms import Arm, Recipe, compare
from stts.comparison.base import unpruned_base
from stts.data.load import load_data
from stts.data.spec import DataSpec
from stts.eval.records import read_predictions, write_json
from stts.eval.tasks import DataBenchmark, Question
from stts.eval.tasks.registry import load_questions
from stts.hosts.folders import ModelSpec
from stts.pruning.config import STTSConfig
from stts.settings.launch import launch
from stts.settings.typed import from_dict
from stts.train.provenance import run_provenance

KEYS = {"accuracy": "accuracy", "evidence_recall": "evidence kept"}
ALL = "all"
"""The clips of every cell together."""


@dataclass
class Runs:
    """The runs of one policy at one ratio, a row a seed."""

    policy: str
    ratio: float
    folders: list[Path]
    seconds_per_step: list[float | None]
    questions: Sequence[Question]

    @cached_property
    def correct(self) -> np.ndarray:
        """(S, Q) 1 or 0."""
        return self._read("correct")

    @cached_property
    def recall(self) -> np.ndarray:
        """(S, Q), NaN for questions without evidence."""
        return self._read("evidence_recall")

    def _read(self, key: str) -> np.ndarray:
        found = [read_predictions(folder / "eval") for folder in self.folders]
        rows = [[records[question.id][key] for question in self.questions] for records in found]
        return np.array(rows, dtype=float)


def main(config: dict[str, Any]) -> None:
    """Run the grid seed by seed; after each write the JSON and the figure, at the end print the tables."""
    recipe = from_dict(
        Recipe, {key: config[key] for key in ("steps", "ramp_steps", "batch_size", "frames", "processes")}
    )
    spec = base_of(config, recipe)
    test = config["data"] | config["test"]
    questions = load_questions(DataBenchmark("synthetic", data=test))
    data = load_data(DataSpec.from_dict(config["data"]))
    output_dir, results_file = Path(config["output_dir"]), Path(config["results"])
    settings = chosen(config["policies"], config["arms"])
    finished: dict[tuple[str, float], list[tuple[Path, float | None]]] = {}
    for seed in config["seeds"]:
        arms = list(arms_of(settings, config["ratios"], seed))
        done = compare([arm for *_, arm in arms], recipe, spec, data, questions, output_dir)
        for (policy, ratio, arm), results in zip(arms, done, strict=True):
            print(
                f"{arm.name}: accuracy {results['accuracy']:.3f}, evidence kept {results['evidence_recall']:.3f}"
            )
            run = output_dir / arm.name, results["seconds_per_step"]
            finished.setdefault((policy, ratio), []).append(run)
        grid = [Runs(*key, *map(list, zip(*runs, strict=True)), questions) for key, runs in finished.items()]
        report = {
            "machine": machine(),
            "provenance": run_provenance(),
            "settings": config,
            "rows": list(rows_of(grid, questions)),
            "differences": list(differences(grid, questions, config["leader"])),
        }
        results_file.parent.mkdir(parents=True, exist_ok=True)
        write_json(results_file, report)
        draw(report, results_file.with_suffix(".png"))
    show(report)
    print(f"written to {results_file}")


def base_of(config: Mapping[str, Any], recipe: Recipe) -> ModelSpec:
    """The model every arm starts from: the one given, or with base.steps what it learned without pruning."""
    spec, base = from_dict(ModelSpec, config["model"], "model"), config["base"]
    if not base["steps"]:
        return spec
    data = load_data(DataSpec.from_dict(config["data"] | base["data"]))
    return unpruned_base(replace(recipe, steps=base["steps"], ramp_steps=0), spec, data, Path(base["folder"]))


def chosen(policies: Mapping[str, Any], arms: Sequence[str]) -> dict[str, Any]:
    """Settings of the arms. Raises ValueError for a name that is not among the policies."""
    if unknown := [name for name in arms if name not in policies]:
        raise ValueError(f"arms has {unknown[0]!r}, must be of {', '.join(policies)}")
    return {name: policies[name] for name in arms}


def arms_of(
    settings: Mapping[str, Mapping[str, Any]], ratios: Sequence[float], seed: int
) -> Iterator[tuple[str, float, Arm]]:
    """(policy, ratio, arm) of one seed; what prunes nothing runs once."""
    for name, values in settings.items():
        for ratio in ratios if values["policy"] != "none" else [0.0]:
            stts = STTSConfig.from_dict({**values, "prune_ratio": ratio})
            yield name, ratio, Arm(f"{name}-{ratio:g}-seed{seed}", stts, seed)


def cells_of(questions: Sequence[Question]) -> dict[str, np.ndarray]:
    """Cell -> (Q,) bool, whether a question is about a clip of it; ALL first."""
    cells = np.array([next(iter(question.groups.get("cell", ("plain",)))) for question in questions])
    return {ALL: np.ones(len(cells), bool)} | {name: cells == name for name in dict.fromkeys(cells)}


def rows_of(grid: Iterable[Runs], questions: Sequence[Question]) -> Iterator[dict[str, Any]]:
    """Accuracy and evidence recall of every policy, ratio and cell."""
    clips = np.array([str(question.video) for question in questions])
    for runs in grid:
        for cell, inside in cells_of(questions).items():
            accuracy, low, high = mean_and_interval(runs.correct[:, inside], clips[inside])
            recall, recall_low, recall_high = mean_and_interval(runs.recall[:, inside], clips[inside])
            yield {
                "policy": runs.policy,
                "prune_ratio": runs.ratio,
                "cell": cell,
                "seeds": len(runs.folders),
                "questions": int(inside.sum()),
                "accuracy": accuracy,
                "accuracy_interval": [low, high],
                "accuracy_by_seed": runs.correct[:, inside].mean(1).tolist(),
                "evidence_recall": recall,
                "evidence_recall_interval": [recall_low, recall_high],
                "seconds_per_step": runs.seconds_per_step,
            }


def differences(grid: Iterable[Runs], questions: Sequence[Question], leader: str) -> Iterator[dict[str, Any]]:
    """How much better one policy is than every other: same questions, same seeds, same ratio."""
    by_key = {(runs.policy, runs.ratio): runs for runs in grid}
    clips = np.array([str(question.video) for question in questions])
    for (policy, ratio), runs in by_key.items():
        for rival in dict.fromkeys(name for name, _ in by_key if name != leader):
            other = by_key.get((rival, ratio)) or by_key.get((rival, 0.0))
            if policy != leader or other is None:
                continue
            for cell, inside in cells_of(questions).items():
                gap = (runs.correct - other.correct)[:, inside]
                mean, low, high = mean_and_interval(gap, clips[inside])
                pair = {"policy": policy, "rival": rival, "prune_ratio": ratio, "cell": cell}
                yield pair | {"difference": mean, "interval": [low, high]}


def show(report: Mapping[str, Any]) -> None:
    """Everything on all cells; then ratio by ratio accuracy, evidence recall and the leader's lead, cell by cell."""
    console = Console(width=max(Console().width, 100))
    overall = _table(
        "Accuracy and evidence recall, all cells (95 % interval)", "policy", "dropped", *KEYS.values()
    )
    for row in report["rows"]:
        if row["cell"] == ALL:
            texts = (_with_interval(row[key], row[f"{key}_interval"]) for key in KEYS)
            overall.add_row(row["policy"], f"{row['prune_ratio']:.0%}", *texts)
    console.print(overall)
    for ratio in dict.fromkeys(row["prune_ratio"] for row in report["rows"] if row["prune_ratio"]):
        rows = [row for row in report["rows"] if row["prune_ratio"] in (0, ratio)]
        for key, name in KEYS.items():
            console.print(_by_cell(f"{name} at {ratio:.0%}, %", rows, "policy", partial(_percent, key)))
        gaps = [gap for gap in report["differences"] if gap["prune_ratio"] == ratio]
        if gaps:
            title = (
                f"{gaps[0]['policy']}: lead at {ratio:.0%}, in points (*: the 95 % interval excludes zero)"
            )
            console.print(_by_cell(title, gaps, "rival", _lead))


def _by_cell(
    title: str, items: Sequence[Mapping[str, Any]], key: str, text: Callable[[Mapping[str, Any]], str]
) -> Table:
    """A line for each value of items' key, a column a cell."""
    cells = dict.fromkeys(item["cell"] for item in items)
    table = _table(title, key, *cells)
    for name in dict.fromkeys(item[key] for item in items):
        found = {item["cell"]: text(item) for item in items if item[key] == name}
        table.add_row(name, *(found[cell] for cell in cells))
    return table


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title)
    table.add_column(first)
    for column in others:
        table.add_column(column, justify="right")
    return table


def _with_interval(value: float, interval: Sequence[float]) -> str:
    return f"{value:.3f} ({interval[0]:.3f} - {interval[1]:.3f})"


def _percent(key: str, row: Mapping[str, Any]) -> str:
    return f"{100 * row[key]:.1f}"


def _lead(difference: Mapping[str, Any]) -> str:
    low, high = difference["interval"]
    return f"{100 * difference['difference']:+.1f}" + ("*" if low > 0 or high < 0 else "")


if __name__ == "__main__":
    launch(main, "accuracy")
