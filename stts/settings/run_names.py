"""Default folders of results carry the name of the weights: those of two checkpoints never share one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WEIGHTS = "{weights}"
"""In output_dir: stands for the name of the weights."""
TRAINED = Path("outputs/train")
"""Where runs have names of their own, by default."""


def named_after_weights(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a script with the name of the weights filled into output_dir."""
    name = name_of_weights(config["checkpoint"], config["model"]["path"], config["model"]["name"])
    return {**config, "output_dir": config["output_dir"].replace(WEIGHTS, name)}


def name_of_weights(checkpoint: str | None, path: str | None, name: str) -> str:
    """The run that a checkpoint or a model's folder is from; the model's own name where there is neither.

    RUN for outputs/train/RUN/model, and for any other folder its name with six digits that stand for the rest of
    its path.
    """
    folder = checkpoint or (path if path and Path(path).expanduser().is_dir() else None)
    if not folder:
        return name
    place = Path(os.path.relpath(Path(folder).expanduser().absolute()))
    run = place.parent if place.name == "model" else place
    if run.parent == TRAINED:
        return run.name
    digits = hashlib.sha256(os.fsencode(place)).hexdigest()[:6]
    return f"{run.name}-{digits}" if run.name.strip(".") else f"{name}-{digits}"
