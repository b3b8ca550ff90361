"""The last line of a script: what may be done next, ready to be copied into a shell."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .arguments import as_value


def suggest(script: str, arguments: Iterable[str] = (), **settings: Any) -> None:
    """Print how another script is run from here. settings: as arguments, those that are None left out."""
    given = [f"{key}={as_value(value)}" for key, value in settings.items() if value is not None]
    path = Path(sys.argv[0]).with_name(f"{script}.py")
    print("next: " + shlex.join(["python", str(path), *arguments, *given]), flush=True)


def of_model(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by which another script takes the same model, with the same pruning if it prunes."""
    model, pruned = config["model"], config["policy"] != "none" and config["prune_ratio"]
    settings = {
        "model": None if model["name"] == "tiny" else model["name"],
        "model.path": None if config["checkpoint"] else model["path"],
        "checkpoint": config["checkpoint"],
        "policy": config["policy"] if pruned and config["policy"] != "scorer" else None,
        "prune_ratio": config["prune_ratio"] if pruned else None,
    }
    return {key: value for key, value in settings.items() if value is not None}
