"""The training loop: next batches, step, maybe log, maybe evaluate, maybe save."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from ..files.lock import only_run
from ..processes import join_processes
from .checkpoint import read_progress
from .config import LearningRates, TrainConfig, WandbConfig
from .prepare import describe_training
from .run_folder import (
    check_output_dir,
    is_finished,
    make_output_dir,
    newest_checkpoint,
    step_of,
    write_settings,
)
from .signals import Interrupted, StopSignals
from .tracking import Tracker
from .trainer import Evaluate, Trainer

__all__ = ["Interrupted", "LearningRates", "TrainConfig", "WandbConfig", "train"]


def train(
    model: nn.Module,
    processor: Any,
    dataset: Dataset,
    config: TrainConfig,
    output_dir: str | Path,
    evaluate: Evaluate | None = None,
    wandb: WandbConfig | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Fine-tune a model in place. Returns the folder of its last checkpoint; output_dir/model holds the result.

    model: a pruning model, as load_model gives it; processor: its own; dataset: gives the processor's
    examples with "id"; evaluate: called every config.eval_every steps on the first process; settings: what
    config.yaml and wandb should list. Where output_dir has checkpoints, the run goes on from the newest as if it had
    never stopped; a finished run returns at once.

    Raises Interrupted after SIGINT or SIGTERM, when a checkpoint has been saved. Raises ValueError when the loss is
    not finite, when nothing can be written in output_dir, when another process trains there, when it holds a run with
    other settings, and when wandb should go online without a key.
    """
    output_dir, wandb = Path(output_dir), wandb or WandbConfig()
    wandb.check_ready()
    if config.global_batch is not None:
        config = config.for_devices(join_processes().num_processes)
    if is_finished(output_dir, _steps(config, output_dir, dataset)):
        newest = newest_checkpoint(output_dir)
        print(f"finished already, {step_of(newest)} steps: the model is in {output_dir / 'model'}")
        return newest

    make_output_dir(output_dir)
    alone = only_run(output_dir) if join_processes().is_main_process else nullcontext()
    with alone, _told_when_full(output_dir):
        if settings and join_processes().is_main_process:
            check_output_dir(output_dir, settings)  # another run may have been in here since it was asked
        trainer = Trainer(model, processor, config, output_dir)
        trainer.plan(len(dataset))
        _run(trainer, dataset, evaluate, wandb, settings)
    return newest_checkpoint(output_dir)


def _run(
    trainer: Trainer,
    dataset: Dataset,
    evaluate: Evaluate | None,
    wandb: WandbConfig,
    settings: Mapping[str, Any] | None,
) -> None:
    """All steps that are left, and the trained model."""
    config, output_dir, done = trainer.config, trainer.output_dir, trainer.progress.step
    if settings and trainer.is_main:
        write_settings(output_dir, settings)
    batches = trainer.batches(dataset)
    tracker = Tracker(output_dir, config.max_steps, done, wandb, settings, trainer.is_main)
    with tracker, StopSignals() as signals, closing(batches):
        tracker.say(f"{'resuming after' if done else 'starting at'} step {done} of {config.max_steps}")
        for line in describe_training(trainer.plain_model, trainer.accelerator, trainer.bf16):
            tracker.say(line)
        for step in range(done + 1, config.max_steps + 1):
            trainer.step(trainer.next_batches(batches))

            log, save = trainer.is_due(config.log_every), trainer.is_due(config.save_every)
            draw = trainer.is_due(wandb.images_every)
            evaluates = evaluate is not None and trainer.is_due(config.eval_every)
            stop = trainer.any_process(signals.received) if log or not trainer.is_distributed else 0
            if log or evaluates or save or draw or stop:
                tracker.log(trainer.read_metrics())
                trainer.refuse_bad_batch()
            if draw:
                tracker.log_overlay(step, trainer.draw_overlay)
            if evaluates:
                tracker.log_evaluation(step, trainer.evaluate(evaluate))
            if save or stop:
                trainer.save()
                tracker.draw_curves()
            if stop and step < config.max_steps:
                raise Interrupted(stop, newest_checkpoint(output_dir))
        trainer.finish()
        tracker.draw_curves(last=True)
        tracker.say(f"finished: the model is in {output_dir / 'model'}")


def _steps(config: TrainConfig, output_dir: Path, dataset: Dataset) -> int:
    """How many steps the run in a folder takes in all, told from its checkpoint's progress alone."""
    newest = newest_checkpoint(output_dir)
    if config.epochs is None or newest is None:
        return config.max_steps
    done = read_progress(newest)
    size = config.step_size(join_processes().num_processes)
    return config.with_steps(len(dataset), size, done.step, done.examples).max_steps


@contextmanager
def _told_when_full(output_dir: Path) -> Iterator[None]:
    """Turns an OSError (the disk is full, the folder is gone) into a ValueError that says how to go on."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"cannot go on in {output_dir}: {error}. Nothing that was saved before is lost: make room, or mend "
            "what else is wrong, and run the same command again"
        ) from error
