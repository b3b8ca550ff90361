"""One base model fine-tuned under several settings of pruning, each judged on the same questions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from ..data import VideoQADataset
from ..data.load import DataPaths
from ..data.processors.base import Processor
from ..data.video.config import VideoConfig
from ..eval.config import EvalConfig
from ..eval.records import write_json
from ..eval.runner import evaluate
from ..eval.tasks.question import Question
from ..files.jsonl import read_jsonl
from ..hosts.folders import ModelSpec, find_folder
from ..hosts.load import default_device, load_model, load_processor
from ..pruning.config import STTSConfig
from ..rules import at_least, check_rules
from ..train.config import LearningRates, TrainConfig
from ..train.loop import train
from ..viz.curves import draw_curves


@dataclass(frozen=True)
class Arm:
    """One of the settings that are compared."""

    name: str
    """Also of its folder."""
    stts: STTSConfig
    seed: int = 0
    """Of the fresh scorer and of the order of the clips."""


@dataclass(frozen=True)
class Recipe:
    """How every arm is fine-tuned and judged. Raises ValueError, naming the key, for a value out of range."""

    steps: int = field(default=100, metadata=at_least(0))
    """Optimizer steps; 0: the base model with a fresh scorer is judged."""
    ramp_steps: int = field(default=0, metadata=at_least(0))
    """Steps over which the prune ratio rises from 0."""
    batch_size: int = field(default=8, metadata=at_least(1))
    frames: int = field(default=32, metadata=at_least(1))
    """At most so many frames of each clip."""
    processes: int = field(default=1, metadata=at_least(1))
    """Arms at a time, a thread each; 1: one after the other, with all threads."""

    def __post_init__(self) -> None:
        check_rules(self)


def compare(
    arms: Sequence[Arm],
    recipe: Recipe,
    spec: ModelSpec,
    data: DataPaths,
    questions: Sequence[Question],
    output_dir: Path,
) -> Iterator[dict[str, Any]]:
    """Train and judge the arms; yields for each, in their order, what run_arm returns.

    data: training rows; questions: test questions, about clips that training never sees. Raises ValueError when
    two arms share a name, or output_dir holds results of other settings.
    """
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names):
        raise ValueError(f"arms are {', '.join(names)}: each name once")
    find_folder(spec)  # made or downloaded once, before several processes ask for it
    work = partial(run_arm, recipe, spec, data, questions, output_dir)
    if recipe.processes == 1:
        yield from map(work, arms)
        return
    context = get_context("spawn")  # threads of torch do not survive a fork
    with ProcessPoolExecutor(recipe.processes, context, torch.set_num_threads, (1,)) as pool:
        yield from pool.map(work, arms)


def run_arm(
    recipe: Recipe,
    spec: ModelSpec,
    data: DataPaths,
    questions: Sequence[Question],
    output_dir: Path,
    arm: Arm,
) -> dict[str, Any]:
    """Fine-tune and judge one arm in output_dir/<name>; what training prints goes into its log.txt.

    Returns what stts.eval.runner.evaluate does, and the median "seconds_per_step" (None without steps). A finished
    arm is found again.
    """
    folder = output_dir / arm.name
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"arm": dataclasses.asdict(arm), "recipe": dataclasses.asdict(recipe) | {"processes": None}}
    settings = json.loads(json.dumps(settings))
    done = folder / "arm.json"
    if done.is_file():
        found = json.loads(done.read_text())
        stts = STTSConfig.from_dict(found["settings"]["arm"]["stts"])  # an earlier version's had fewer
        found["settings"]["arm"]["stts"] = json.loads(json.dumps(stts.to_dict()))
        if found["settings"] != settings:
            raise ValueError(f"{folder} holds results of other settings: choose another output_dir")
        return found["results"]
    with open(folder / "log.txt", "a") as log, redirect_stdout(log):
        model, processor = fine_tune(arm, recipe, spec, data, folder)
        results = judge(arm, recipe, model.to(default_device()), processor, questions, folder)
    write_json(done, {"settings": settings, "results": results})
    return results


def fine_tune(
    arm: Arm, recipe: Recipe, spec: ModelSpec, data: DataPaths, folder: Path
) -> tuple[nn.Module, Processor]:
    """The base model fine-tuned under one arm's settings; a finished run is loaded, not repeated."""
    torch.manual_seed(arm.seed)
    if recipe.steps == 0:
        return load_model(spec, arm.stts)
    model, processor = load_model(spec.to_train(), arm.stts)
    settings = TrainConfig(
        max_steps=recipe.steps,
        batch_size=recipe.batch_size,
        lr=LearningRates(**spec.lr),
        save_every=0,
        keep=1,
        num_workers=0,
        ramp_steps=recipe.ramp_steps,
        seed=arm.seed,
    )
    bounds = spec.min_pixels, spec.max_pixels
    examples = training_examples(data, find_folder(spec), recipe.frames, *bounds)
    train(model, processor, examples, settings, folder)
    draw_curves(folder / "metrics.jsonl", folder / "curves.png")
    return load_model(spec, arm.stts, folder / "model")


def judge(
    arm: Arm,
    recipe: Recipe,
    model: nn.Module,
    processor: Processor,
    questions: Sequence[Question],
    folder: Path,
) -> dict[str, Any]:
    """Accuracy and what survived, on the test questions."""
    asking = EvalConfig("synthetic", VideoConfig(recipe.frames), batch_size=16, seed=arm.seed, progress=False)
    results = evaluate(model, processor, questions, asking, folder / "eval")
    return results | {"seconds_per_step": median_seconds(folder / "metrics.jsonl") if recipe.steps else None}


def median_seconds(metrics: Path) -> float:
    """Of an optimizer step, the first tenth of the run left out."""
    seconds = [row["seconds"] for row in read_jsonl(metrics)]
    return float(np.median(seconds[len(seconds) // 10 :]))


@cache
def training_examples(
    data: DataPaths, model: Path, frames: int, min_pixels: int | None = None, max_pixels: int | None = None
) -> Dataset:
    """The training clips as the model in a folder takes them; kept, since they are the same for every arm."""
    spec = ModelSpec(str(model), min_pixels=min_pixels, max_pixels=max_pixels)
    return InMemory(VideoQADataset(data.train, data.root, load_processor(spec, STTSConfig()), frames))


class InMemory(Dataset):
    """A small data set whose examples are read once."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.examples = dataset, {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index not in self.examples:
            self.examples[index] = self.dataset[index]
        return self.examples[index]
