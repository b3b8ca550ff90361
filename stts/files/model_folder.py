"""The files of a model's folder as they lie there: read, or refused by the name of the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

INDEX = "model.safetensors.index.json"


class BadFolder(ValueError):  # noqa: N818 (of a model)
    """A model's folder is not what it must be; the text names the folder and what is wrong."""


def read_json(path: Path) -> dict[str, Any]:
    """A file with one JSON object. Raises BadFolder, naming it, when it is not that."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadFolder(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadFolder(f"{path} holds a {type(value).__name__}, must be a JSON object")
    return value


def weight_files(folder: Path) -> set[str]:
    """Names of the safetensors that a folder says it has. Raises BadFolder for an index that is none."""
    index = folder / INDEX
    if not index.exists():
        return {"model.safetensors"}
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise BadFolder(f"{index} must say in weight_map which file each tensor is in; copy the folder again")
    return set(places.values())


def file_of(tensor: str, folder: Path) -> Path:
    """The file that holds a tensor, as far as its folder says."""
    if (folder / INDEX).is_file():
        return folder / read_json(folder / INDEX)["weight_map"].get(tensor, "")
    file = folder / "model.safetensors"
    return file if file.is_file() else folder


def one_line(error: Exception) -> str:
    """The kind of an error and what it says, in a line that is not too long."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
