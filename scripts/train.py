"""python scripts/train.py prune_ratio=0.5 frames=128; --help explains every key."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from stts.data.digest import with_digests
from stts.hosts.folders import find_folder
from stts.hosts.load import load_model
from stts.processes import refuse_lone_process
from stts.settings.launch import launch
from stts.train.periodic_eval import periodic_evaluation
from stts.train.run_config import RunConfig
from stts.train.run_folder import check_output_dir, is_finished, make_output_dir
from stts.train.signals import end_on_sigterm


def main(config: dict[str, Any]) -> int:
    """Settings, then files, then the model: what is wrong is said before what is slow begins."""
    run = RunConfig.from_dict(config)
    run.check_ready()
    check_output_dir(run.output_dir, config)
    if run.train.epochs is None and is_finished(run.output_dir, run.train.max_steps):
        print(f"finished already, {run.train.max_steps} steps: the model is in {run.output_dir / 'model'}")
        print(next_steps(run.output_dir / "model"))
        return 0

    end_on_sigterm()
    find_folder(run.model, run.checkpoint)
    config = config | {"data": with_digests(config["data"], run.data)}
    check_output_dir(run.output_dir, config)
    make_output_dir(run.output_dir)

    import torch

    from stts.data import training_data
    from stts.processes import join_processes
    from stts.train.loop import Interrupted, train

    torch.manual_seed(run.train.seed)  # of a fresh scorer's weights
    model, processor = load_model(run.model, run.stts, run.checkpoint)
    dataset = training_data(run.data, processor, run.video)
    evaluate = None
    if run.train.eval_every:
        evaluate = periodic_evaluation(run.benchmark, run.evaluation, processor, run.output_dir)
    try:
        train(model, processor, dataset, run.train, run.output_dir, evaluate, run.wandb, config)
    except Interrupted as stop:
        print(stop)
        return stop.exit_code
    if join_processes().is_main_process:
        print(next_steps(run.output_dir / "model"))
    return 0


def next_steps(model: Path) -> str:
    """What to do with a trained model, as commands for a shell."""
    name = str(model)
    if not re.fullmatch(r"[\w./-]+", name, flags=re.ASCII):  # Hydra wants quotes, the shell more
        name = re.sub(r"(\\+)(?='|$)", r"\1\1", name).replace("'", "\\'")
        name = f"'{name}'"
    checkpoint = shlex.quote(f"checkpoint={name}")
    return (
        f"next: python scripts/eval.py {checkpoint}\n"
        f"  or: python scripts/visualize.py {checkpoint} video=clip.mp4"
    )


if __name__ == "__main__":
    refuse_lone_process()
    launch(main, "train")
