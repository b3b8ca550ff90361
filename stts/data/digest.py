"""What a run's annotations say, as one short text for each data set: other annotations make another run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .load import load_data
from .spec import DataSpec, MixtureData

KEY = "digest"


def with_digests(data: Mapping[str, Any], spec: DataSpec) -> dict[str, Any]:
    """The data section of a run's settings with a digest of the JSONL file that is trained on, in a mixture of each.

    spec: made of that section. What is generated or converted is made first where it is not there yet. Raises
    ValueError as load_data does.
    """
    if isinstance(spec, MixtureData):
        parts = data["datasets"]
        return {**data, "datasets": {name: with_digests(parts[name], spec.datasets[name]) for name in parts}}
    return {**data, KEY: digest(load_data(spec).train)}


def digest(path: Path) -> str:
    """Of the bytes of a file. Raises ValueError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
