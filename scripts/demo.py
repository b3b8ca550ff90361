"""python scripts/demo.py; --help explains every key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stts.cli import from_dict, launch
from stts.data import DataSpec, load_data
from stts.demo import Arm, DemoConfig, run_demo
from stts.eval.tasks.base import BenchmarkSpec
from stts.eval.tasks.registry import load_questions
from stts.models import ModelSpec


def main(config: dict[str, Any]) -> None:
    """Settings, then clips, then the comparison."""
    arms = tuple(from_dict(Arm, {"policy": p, "prune_ratio": r}, "arms") for p, r in config["arms"])
    settings = {
        key: config[key] for key in ("steps", "ramp_steps", "batch_size", "frames", "seed", "processes")
    }
    demo = from_dict(DemoConfig, {"arms": arms, **settings})
    spec = from_dict(ModelSpec, config["model"], "model")
    questions = load_questions(BenchmarkSpec("synthetic", task="data", data=config["data"]))
    run_demo(demo, spec, load_data(DataSpec.from_dict(config["data"])), questions, Path(config["output_dir"]))


if __name__ == "__main__":
    launch(main, "demo")
