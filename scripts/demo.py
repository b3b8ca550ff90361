"""python scripts/demo.py; --help explains every key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stts.cli import from_dict, launch
from stts.comparison import Recipe
from stts.config import STTSConfig
from stts.data import DataSpec, load_data
from stts.demo import Policy, run_demo
from stts.eval.tasks.base import BenchmarkSpec
from stts.eval.tasks.registry import load_questions
from stts.models import ModelSpec


def main(config: dict[str, Any]) -> None:
    """Settings, then clips, then the comparison."""
    policies = [from_dict(Policy, {"name": p, "prune_ratio": r}, "arms") for p, r in config["arms"]]
    shared = from_dict(STTSConfig, config["stts"], "stts")
    settings = ("steps", "ramp_steps", "batch_size", "frames", "processes")
    recipe = from_dict(Recipe, {key: config[key] for key in settings})
    spec = from_dict(ModelSpec, config["model"], "model")
    questions = load_questions(BenchmarkSpec("synthetic", task="data", data=config["data"]))
    data = load_data(DataSpec.from_dict(config["data"]))
    run_demo(policies, shared, recipe, config["seed"], spec, data, questions, Path(config["output_dir"]))


if __name__ == "__main__":
    launch(main, "demo")
