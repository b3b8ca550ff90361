"""Checkpoints that are whole or absent, finding the newest, and refusing to mix two runs in one folder.

A run's folder: config.yaml, metrics.jsonl, checkpoints/step-XXXXXXX/{model, optimizer.pt, rng.pt,
progress.json} and, when finished, model/ (an ordinary Hugging Face folder). torch is loaded only where
tensors are read or written.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .models import quiet_transformers

if TYPE_CHECKING:
    import torch
    from torch import nn

HARMLESS = (
    "output_dir",
    "wandb",
    "benchmark",
    "eval",
    "train.save_every",
    "train.eval_every",
    "train.keep",
    "train.num_workers",
    "train.log_every",
    "train.gradient_checkpointing",
)
"""Settings, or groups of them, that may change when a run goes on: they do not change what it learns."""


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    """Optimizer steps done."""
    examples: int = 0
    """Examples consumed by all processes: the position in the order of the data."""


def checkpoint_path(output_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step lives."""
    return Path(output_dir) / "checkpoints" / f"step-{step:07d}"


def checkpoints(output_dir: Path) -> list[Path]:
    """Complete checkpoints, oldest first. A folder still being written has another name."""
    found = Path(output_dir, "checkpoints").glob("step-*")
    whole = [
        path
        for path in found
        if re.fullmatch(r"step-\d{7,}", path.name) and (path / "progress.json").exists()
    ]
    return sorted(whole, key=step_of)


def newest_checkpoint(output_dir: Path) -> Path | None:
    """The checkpoint a run goes on from; None when there is none."""
    return next(reversed(checkpoints(output_dir)), None)


def step_of(checkpoint: Path) -> int:
    """Optimizer steps done when a checkpoint was written, from its name."""
    return int(checkpoint.name.removeprefix("step-"))


def is_finished(output_dir: Path, max_steps: int) -> bool:
    """Whether the run in a folder has done its steps and saved its model."""
    newest = newest_checkpoint(output_dir)
    return (
        newest is not None
        and step_of(newest) >= max_steps
        and Path(output_dir, "model", "config.json").exists()
    )


def check_output_dir(output_dir: Path, settings: Mapping[str, Any]) -> None:
    """Whether a run with these settings may go on, or begin, in a folder.

    settings: nested plain values. Raises ValueError naming the first setting in which the run in there
    differs. Those in HARMLESS may differ, train.max_steps may grow, and a run without a checkpoint is started
    over.
    """
    output_dir = Path(output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"output_dir is {output_dir}, which is a file")
    if newest_checkpoint(output_dir) is None:
        return
    path = output_dir / "config.yaml"
    if not path.exists():
        raise ValueError(f"{output_dir} holds checkpoints but no config.yaml; give another output_dir")
    _check_same_run(output_dir, flatten(yaml.safe_load(path.read_text())), flatten(settings))


def write_settings(output_dir: Path, settings: Mapping[str, Any]) -> None:
    """Keep the settings of a run in output_dir/config.yaml."""
    path = Path(output_dir) / "config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(".config.yaml.partial")
    partial.write_text(yaml.safe_dump(dict(settings), sort_keys=False))
    partial.replace(path)


def _check_same_run(output_dir: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    for key in sorted(old.keys() | new.keys()):
        if any(key == harmless or key.startswith(harmless + ".") for harmless in HARMLESS):
            continue
        before, now = old.get(key), new.get(key)
        if key == "train.max_steps" and now >= before:
            continue
        if before != now:
            raise ValueError(
                f"{output_dir} holds a run with {key}={before}, this one has {key}={now}; "
                "give another output_dir, or the same settings to go on with that run"
            )


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"lr": 1}} -> {"train.lr": 1}; tuples become lists, as YAML reads them back."""
    flat = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yields a folder to fill; on leaving, it is flushed to disk and takes its name from an older one."""
    partial, old = (folder.with_name(f".{folder.name}.{suffix}") for suffix in ("partial", "old"))
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)  # of a run that was killed here
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in (*partial.rglob("*"), partial):
            _flush(path)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        _flush(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_model(folder: Path, model: nn.Module, processor: Any) -> None:
    """Write model and tokenizer as one Hugging Face folder; nobody ever sees half of it."""
    with whole_folder(folder) as partial, quiet_transformers():
        model.save_pretrained(partial)
        processor.save_pretrained(partial)


def save_checkpoint(
    output_dir: Path,
    progress: Progress,
    model: nn.Module,
    processor: Any,
    optimizer: torch.optim.Optimizer,
    rng_states: list[dict],
    keep: int,
) -> Path:
    """Write the checkpoint of a step, remove all but the newest `keep`. rng_states: one for each process."""
    import torch

    folder = checkpoint_path(output_dir, progress.step)
    if not (folder / "progress.json").exists():  # else the run was stopped again before its next step
        with whole_folder(folder) as partial:
            save_model(partial / "model", model, processor)
            torch.save(optimizer.state_dict(), partial / "optimizer.pt")
            torch.save(rng_states, partial / "rng.pt")
            (partial / "progress.json").write_text(json.dumps(asdict(progress)))
    for old in checkpoints(output_dir)[:-keep]:
        shutil.rmtree(old)
    return folder


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, process: int = 0
) -> Progress:
    """Put a checkpoint's weights, optimizer state and random numbers back; process: this one's rank.

    Raises ValueError naming the file when one cannot be read.
    """
    import torch

    def read(name: str, how: Callable[[Path], Any]) -> Any:
        try:
            return how(folder / name)
        except Exception as error:
            raise ValueError(
                f"cannot read {folder / name}: {error}; remove {folder} for the one before it"
            ) from error

    progress = read("progress.json", lambda path: Progress(**json.loads(path.read_text())))
    with quiet_transformers():
        saved = read("model", lambda path: type(model).from_pretrained(path, dtype="auto"))
    model.load_state_dict(saved.state_dict())
    del saved
    tensors = {"map_location": "cpu", "weights_only": True}
    optimizer.load_state_dict(read("optimizer.pt", lambda path: torch.load(path, **tensors)))
    rng_states = read("rng.pt", lambda path: torch.load(path, **tensors))
    if process < len(rng_states):  # with more processes than before, the new ones keep their own seed
        set_rng_state(rng_states[process])
    return progress


def rng_state() -> dict:
    """The state of every generator training draws from, as values torch.load takes with weights_only."""
    import numpy as np
    import torch

    name, keys, *rest = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
    }
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def set_rng_state(state: dict) -> None:
    """Inverse of rng_state."""
    import numpy as np
    import torch

    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
