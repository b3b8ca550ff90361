"""A run's folder: its settings, kept there so that two runs never mix in one, and where its files are."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..data.digest import KEY
from ..data.synthetic.spec import SyntheticSpec
from ..files.durable import write_whole
from ..pruning.config import STTSConfig
from ..rules import without_gone

NAME = "config.yaml"
_LOST = "put the file back, or give another output_dir"
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
    "train.compile",
    "parallel.reshard",
    "data.max_bad_fraction",
    "data.decode_timeout",
    "stts.pool_width",  # always the model's own: it refuses another
)
"""Settings, or groups of them, that may change when a run goes on: they do not change what it learns."""

LATER = (
    "stts.relevance_weight",
    "stts.novelty_power",
    "stts.novelty_since",
    "stts.score_floor",
    "data.decoys",
    "data.passers",
)
"""Settings that came with a later version, whose defaults are what there was before."""


def check_output_dir(output_dir: Path, settings: Mapping[str, Any]) -> None:
    """Raises ValueError when a run with these settings may neither go on nor begin in a folder.

    settings: nested plain values. The error names the first setting in which the run in the folder differs; the
    content of the annotations counts as one (data/digest.py). Settings in HARMLESS may differ, train.max_steps and
    epochs may grow. A run that has no checkpoint yet is started over, whatever its settings.
    """
    output_dir = Path(output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"output_dir is {output_dir}, which is a file")
    if newest_checkpoint(output_dir) is None:
        return
    if not (output_dir / NAME).exists():
        raise ValueError(f"{output_dir} holds checkpoints but no {NAME}; give another output_dir")
    old = flatten(without_gone(read_settings(output_dir)))
    _check_same_run(output_dir, defaults_of_later() | old, flatten(settings))


def defaults_of_later() -> dict[str, Any]:
    """Settings that earlier versions did not have, with the values that describe what these did."""
    found = {
        f"{group}.{field.name}": field.default
        for group, cls in (("stts", STTSConfig), ("data", SyntheticSpec))
        for field in dataclasses.fields(cls)
    }
    return {key: found[key] for key in LATER}


def make_output_dir(output_dir: Path) -> None:
    """Make the folder of a run if it is not there. Raises ValueError when nothing can be written there."""
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        raise ValueError(
            f"output_dir is {output_dir}, where nothing can be written ({error.strerror or error}); give another "
            "output_dir"
        ) from error


def read_settings(output_dir: Path) -> dict[str, Any]:
    """The settings that write_settings kept. Raises ValueError, naming the file, when it holds no settings."""
    path = Path(output_dir) / NAME
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read as the settings of a run: {error}; {_LOST}") from error
    if not isinstance(settings, dict) or not settings:
        found = "empty" if not settings else f"a {type(settings).__name__}"
        raise ValueError(f"{path} is {found}, must hold the settings of a run; {_LOST}")
    return settings


def write_settings(output_dir: Path, settings: Mapping[str, Any]) -> None:
    """Keep the settings of a run in output_dir/config.yaml."""
    path = Path(output_dir) / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, yaml.safe_dump(dict(settings), sort_keys=False))


def _check_same_run(output_dir: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    for key in sorted(old.keys() | new.keys()):
        if any(key == harmless or key.startswith(harmless + ".") for harmless in HARMLESS):
            continue
        before, now = old.get(key), new.get(key, old.get(key) if key in LATER else None)
        if key in ("train.max_steps", "train.epochs") and _grew(before, now):
            continue
        if key == "stts.pool_width" and None in (before, now):
            continue  # null is what the model says, and the model refuses another one
        if key.endswith(f".{KEY}") and None in (before, now):
            continue  # older runs did not keep it, and before the data are made there is none
        if before != now:
            same = "the annotations as they were" if key.endswith(f".{KEY}") else "the same settings"
            raise ValueError(
                f"{output_dir} holds a run with {key}={before}, this one has {key}={now}; "
                f"give another output_dir, or {same} to go on with that run"
            )


def _grew(before: Any, now: Any) -> bool:
    numbers = all(isinstance(value, int | float) for value in (before, now))
    return numbers and now >= before


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"lr": 1}} -> {"train.lr": 1}; tuples become lists, as YAML reads them back."""
    flat = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def checkpoint_path(output_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step lives."""
    return Path(output_dir) / "checkpoints" / f"step-{step:07d}"


def evaluation_folder(output_dir: Path, step: int) -> Path:
    """Where the predictions of an evaluation during training are."""
    return Path(output_dir) / "eval" / f"step-{step:07d}"


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
