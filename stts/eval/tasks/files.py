"""Rows of annotation files, whatever their format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...files.jsonl import read_jsonl

Row = Mapping[str, Any]


def read_annotations(path: Path) -> list[Row]:
    """The rows of a .parquet, .jsonl or .json file. Raises ValueError naming a file that cannot be read."""
    if path.suffix == ".jsonl":
        return read_jsonl(path)
    if path.suffix == ".json":
        return _read_json(path)
    if path.suffix == ".parquet":
        return _read_parquet(path)
    raise ValueError(f"{path} must be a .parquet, .jsonl or .json file")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def read_object(path: Path) -> Row:
    if not isinstance(values := _json(path), dict):
        raise ValueError(f"{path} must hold a JSON object")
    return values


def _read_json(path: Path) -> list[Row]:
    rows = _json(path)
    if isinstance(rows, dict) and all(isinstance(row, dict) for row in rows.values()):
        rows = [{"row": key, **row} for key, row in rows.items()]
    if not rows or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} must hold a JSON list of objects, or an object of them")
    return rows


def _read_parquet(path: Path) -> list[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(
            f'{path} needs pyarrow to be read: pip install "stts[eval]", or pip install pyarrow'
        ) from error
    try:
        return parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a parquet file that can be read: {error}") from error
