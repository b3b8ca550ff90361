"""python scripts/eval.py benchmark=synthetic prune_ratio=0.5; --help explains every key."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from stts.checkpoint import write_settings
from stts.cli import from_dict, launch
from stts.config import STTSConfig
from stts.eval.config import EvalConfig, warn_if_untrained
from stts.eval.records import check_settings
from stts.eval.tasks import BenchmarkSpec
from stts.eval.tasks.registry import load_questions
from stts.models import ModelSpec, find_folder, load_model
from stts.train_config import VideoConfig


def main(config: dict[str, Any]) -> None:
    """Settings, then files, then the model: what is wrong is said before what is slow begins."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("evaluation runs in one process: start it without accelerate launch or torchrun")
    spec = from_dict(BenchmarkSpec, config["benchmark"], "benchmark")
    model_spec = from_dict(ModelSpec, config["model"], "model")
    pruning = {key: config[key] for key in ("prune_ratio", "policy")}
    stts = from_dict(STTSConfig, pruning | config["stts"])
    video = from_dict(VideoConfig, {"frames": config["frames"], **config["video"]})
    notes = {"model": model_spec.name, "path": model_spec.path, "checkpoint": config["checkpoint"]}
    asking = {"benchmark": spec.name, "seed": config["seed"], "notes": notes, **dataclasses.asdict(video)}
    settings = from_dict(EvalConfig, {**asking, **config["eval"]})
    output_dir = Path(config["output_dir"])
    check_settings(output_dir, settings.compared() | pruning)
    if config["checkpoint"]:  # a wrong one is told before clips are generated
        find_folder(model_spec, config["checkpoint"])
    questions = load_questions(spec, settings.limit, allow_missing=settings.bad_videos == "wrong")
    warn_if_untrained(stts, find_folder(model_spec, config["checkpoint"]))

    import torch

    from stts.eval.report import print_results
    from stts.eval.runner import evaluate

    torch.manual_seed(settings.seed)  # of the scorer of a model that has none yet
    model, processor = load_model(model_spec, stts, config["checkpoint"])
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    write_settings(output_dir, config)
    print_results(evaluate(model, processor, questions, settings, output_dir))
    print(f"written to {output_dir}")


if __name__ == "__main__":
    launch(main, "eval")
