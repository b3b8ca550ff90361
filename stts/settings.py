"""The settings of a run, kept in its folder: two runs are never mixed in one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .checkpoint import newest_checkpoint
from .durable import write_whole

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
)
"""Settings, or groups of them, that may change when a run goes on: they do not change what it learns."""


def check_output_dir(output_dir: Path, settings: Mapping[str, Any]) -> None:
    """Whether a run with these settings may go on, or begin, in a folder.

    settings: nested plain values. Raises ValueError naming the first setting in which the run in there
    differs. Those in HARMLESS may differ, train.max_steps and epochs may grow, and a run without a checkpoint is
    started over.
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
    write_whole(path, yaml.safe_dump(dict(settings), sort_keys=False))


def _check_same_run(output_dir: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    for key in sorted(old.keys() | new.keys()):
        if any(key == harmless or key.startswith(harmless + ".") for harmless in HARMLESS):
            continue
        before, now = old.get(key), new.get(key)
        if key in ("train.max_steps", "train.epochs") and None not in (before, now) and now >= before:
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
