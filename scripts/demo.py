"""python scripts/demo.py; --help explains every key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stts.hosts.folders import ModelSpec
from stts.pruning.config import STTSConfig
from stts.settings.launch import launch
from stts.settings.next_command import suggest
from stts.settings.typed import from_dict


def main(config: dict[str, Any]) -> None:
    """Settings, then clips, then the comparison."""
    shared = from_dict(STTSConfig, config["stts"], "stts")
    spec = from_dict(ModelSpec, config["model"], "model")

    from stts.comparison.arms import Recipe
    from stts.comparison.demo import Policy, run_demo
    from stts.data import DataSpec, load_data
    from stts.eval.tasks import DataBenchmark
    from stts.eval.tasks.registry import load_questions

    arms = config["arms"] if isinstance(config["arms"], list) else [config["arms"]]
    if odd := [arm for arm in arms if not isinstance(arm, list) or len(arm) != 2]:
        raise ValueError(f"arms has {odd[0]!r}, must be pairs of policy and prune_ratio: arms=[[scorer,0.5]]")
    policies = [from_dict(Policy, {"name": p, "prune_ratio": r}, "arms") for p, r in arms]
    settings = ("steps", "ramp_steps", "batch_size", "frames", "processes")
    recipe = from_dict(Recipe, {key: config[key] for key in settings})
    questions = load_questions(DataBenchmark("synthetic", data=config["data"]))
    data = load_data(DataSpec.from_dict(config["data"]))
    output_dir = Path(config["output_dir"])
    run_demo(policies, shared, recipe, config["seed"], spec, data, questions, output_dir)
    suggest("report", runs=[str(output_dir)], examples=0)  # its runs do not record what they kept


if __name__ == "__main__":
    launch(main, "demo")
