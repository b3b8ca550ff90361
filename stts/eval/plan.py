"""From the settings of scripts/eval.py to the runs they ask for; wrong settings and missing files end it here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.video.config import VideoConfig
from ..hosts.folders import ModelSpec
from ..pruning.config import STTSConfig
from ..settings.launch import USAGE_ERROR
from ..settings.typed import from_dict
from .config import EvalConfig
from .records import refuse_other_settings
from .tasks import Benchmark, Question, read_benchmark
from .tasks.registry import edition_of, load_questions, what_is_missing

NAME = "{benchmark}"
"""In output_dir: stands for the name of the benchmark."""


@dataclass(frozen=True)
class EvalRun:
    """One benchmark, ready to be asked."""

    benchmark: Benchmark
    settings: EvalConfig
    questions: Sequence[Question]
    folder: Path


def one_by_one(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The settings of each benchmark of a group, as if it were asked alone; of a single one, its own.

    With a plain output_dir the benchmarks of a group go into folders below it.
    """
    members = config["benchmark"].get("members") or {}
    below = f"/{NAME}" if members and NAME not in config["output_dir"] else ""
    return [
        {**config, "benchmark": benchmark, "output_dir": folder_of(config, benchmark["name"], below)}
        for benchmark in members.values() or [config["benchmark"]]
    ]


def folder_of(config: Mapping[str, Any], name: str, below: str = "") -> str:
    return (config["output_dir"] + below).replace(NAME, name)


def plan_run(config: Mapping[str, Any], model: ModelSpec, stts: STTSConfig) -> EvalRun:
    """Raises ValueError for settings out of range, a folder with another run, and files that are missing."""
    benchmark = read_benchmark(config["benchmark"])
    video = from_dict(VideoConfig, {"frames": config["frames"], **config["video"]})
    notes = {"model": model.name, "path": model.path, "checkpoint": config["checkpoint"]}
    asking = {"benchmark": benchmark.name, "video": video, "seed": config["seed"], "notes": notes}
    settings = from_dict(EvalConfig, {**asking, **config["eval"]})
    folder = Path(config["output_dir"])
    pruning = {"prune_ratio": stts.prune_ratio, "policy": stts.policy}
    refuse_other_settings(folder, settings.compared() | pruning)
    questions = load_questions(benchmark, settings.limit, allow_missing=settings.bad_videos == "wrong")
    settings = dataclasses.replace(settings, notes=notes | edition_of(benchmark))
    refuse_other_settings(folder, settings.compared())
    return EvalRun(benchmark, settings, questions, folder)


def print_missing(configs: Sequence[Mapping[str, Any]]) -> int:
    """Say what each benchmark lacks. Returns the exit status, 0 when nothing is missing."""
    benchmarks = [read_benchmark(config["benchmark"]) for config in configs]
    missing = {benchmark.name: what_is_missing(benchmark) for benchmark in benchmarks}
    print("\n\n".join(text or f"benchmark {name}: nothing is missing" for name, text in missing.items()))
    return USAGE_ERROR if any(missing.values()) else 0
