"""python scripts/train.py prune_ratio=0.5 frames=128; --help explains every key."""

from __future__ import annotations

import dataclasses
from typing import Any

from stts.checkpoint import is_finished
from stts.cli import launch
from stts.data import prepare_data
from stts.models import find_folder, load_model
from stts.periodic_eval import periodic_evaluation
from stts.relaunch import start_all_processes
from stts.run_config import RunConfig
from stts.settings import check_output_dir
from stts.stopping import end_on_sigterm


def main(config: dict[str, Any]) -> int:
    """Settings, then files, then the model: what is wrong is said before what is slow begins."""
    run = RunConfig.from_dict(config)
    check_output_dir(run.output_dir, config)
    if run.train.epochs is None and is_finished(run.output_dir, run.train.max_steps):
        print(f"finished already, {run.train.max_steps} steps: the model is in {run.output_dir / 'model'}")
        return 0

    end_on_sigterm()
    find_folder(run.model, run.checkpoint)
    prepare_data(run.data)

    import torch

    from stts.data import training_data
    from stts.train import Interrupted, train

    torch.manual_seed(run.train.seed)  # of a fresh scorer's weights
    model, processor = load_model(run.model, run.stts, run.checkpoint)
    dataset = training_data(run.data, processor, **dataclasses.asdict(run.video))
    evaluate = None
    if run.train.eval_every:
        evaluate = periodic_evaluation(run.benchmark, run.evaluation, processor, run.output_dir)
    try:
        train(model, processor, dataset, run.train, run.output_dir, evaluate, run.wandb, config)
    except Interrupted as stop:
        print(stop)
        return stop.exit_code
    return 0


if __name__ == "__main__":
    start_all_processes()
    launch(main, "train")
