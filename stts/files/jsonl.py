"""The one reader of JSONL, a JSON object a line: what is wrong with a line is told by file and number."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

Row = dict[str, Any]
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_jsonl(path: str | PathLike) -> list[Row]:
    """All rows of a file. Raises ValueError naming the file, and the line that is no JSON object."""
    return list(scan(Path(path)))


def scan(path: Path) -> Iterator[Row]:
    """The rows of a file, one in memory at a time. Raises ValueError as read_jsonl does."""
    return (parse(line, f"{path}:{number}") for _, number, line in raw_lines(path))


def raw_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(byte it begins at, number, text) of each line that is not blank. Raises ValueError naming the file."""
    try:
        with path.open("rb") as file:
            offset = 0
            for number, line in enumerate(file, start=1):
                if number == 1 and line.startswith(UTF16):
                    raise ValueError(f"{path}: is UTF-16, must be UTF-8: save it anew in that encoding")
                if line.removeprefix(codecs.BOM_UTF8).strip():
                    yield offset, number, line
                offset += len(line)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as a JSONL file: {error}") from error


def parse(line: bytes, where: str) -> Row:
    """One line. where: what an error calls it. Raises ValueError unless it is one object without a key twice."""
    try:
        row = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:  # the latter where it is nested too deep
        raise ValueError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: is a {type(row).__name__}, must be an object {{...}}")
    return row


def _object(pairs: list[tuple[str, Any]]) -> Row:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found
