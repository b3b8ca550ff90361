"""python benchmarks/side_by_side.py: what rule, published and recommended recipe keep of one clip.

Of a finished benchmark (the same command, with accuracy.py): for every kind of clips a picture of the first test
clip, a row for each of SHOWN at the highest prune ratio and the first seed, what is asked about outlined. The
pictures are written beside the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from accuracy import arms_of, base_of, chosen

from stts.comparison.arms import Recipe
from stts.data import read_video
from stts.data.evidence import evidence_windows
from stts.eval.tasks import DataBenchmark, Question
from stts.eval.tasks.registry import load_questions
from stts.hosts.load import load_model
from stts.pruning.windows import window_grid
from stts.settings.launch import launch
from stts.viz.kept_video import kept_of
from stts.viz.overlay import draw_kept

SHOWN = {"temporal": "temporal rule", "stable": "published", "recommended": "recommended"}
"""Arms, and what they are called in the picture."""


def main(config: dict[str, Any]) -> None:
    """Load the arms, then look at the first clip of every kind."""
    spec = base_of(config, Recipe(frames=config["frames"]))
    arms = arms_of(chosen(config["policies"], list(SHOWN)), [max(config["ratios"])], config["seeds"][0])
    models, processor = {}, None
    for policy, _, arm in arms:
        trained = Path(config["output_dir"]) / arm.name / "model"
        models[SHOWN[policy]], processor = load_model(spec, arm.stts, trained)
    clips: dict[str, list[Question]] = {}
    for question in load_questions(DataBenchmark("synthetic", data=config["data"] | config["test"])):
        clips.setdefault(next(iter(question.groups["cell"])), []).append(question)
    for cell, questions in clips.items():
        asked = [question for question in questions if question.video == questions[0].video]
        clip = read_video(asked[0].video, config["frames"], size=processor.image_size)
        grid = window_grid(processor.grid, processor.pool_width)
        keeps = {name: kept_of(model, processor, clip, clip).keep for name, model in models.items()}
        evidence = [evidence_windows(question.evidence, clip.timestamps, *grid) for question in asked]
        outlined = np.any(evidence, axis=0).reshape(-1, *grid)
        path = Path(config["results"]).with_name(f"kept-{cell}.png")
        title = f"{cell}, {max(config['ratios']):.0%} dropped: what is asked about is outlined"
        print(f"drawn: {draw_kept(clip.frames, keeps, path, clip.timestamps, outlined, title)}")


if __name__ == "__main__":
    launch(main, "accuracy")
