"""A JSONL file as a sequence of rows that are read when asked for: files may be larger than memory."""

from __future__ import annotations

import codecs
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


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


def scan(path: Path) -> Iterator[Row]:
    """The rows of a file, one in memory at a time. Raises ValueError naming the file and the line."""
    return (parse(line, f"{path}:{number}") for _, number, line in raw_lines(path))


def parse(line: bytes, where: str) -> Row:
    """One line of a JSONL file."""
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


class RowFile(Sequence[Row]):
    """The rows of a file, by number. lines: the line each stands in; notes: what is odd -> in how many rows."""

    def __init__(
        self, path: Path, offsets: np.ndarray, lines: np.ndarray, notes: Mapping[str, int] | None = None
    ) -> None:
        self.path, self.offsets, self.lines, self.notes = path, offsets, lines, dict(notes or {})

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> Row:
        with self.path.open("rb") as file:
            file.seek(int(self.offsets[index]))
            return parse(file.readline(), f"{self.path}:{self.lines[index]}")


def index_rows(
    path: Path,
    check: Callable[[Row], None],
    report: Callable[[ValueError], None] | None = None,
    note: Callable[[Row], Iterable[str]] = lambda row: (),
) -> RowFile:
    """Read a file through once, checking each row.

    check: raises ValueError for a row that is wrong. Raises ValueError, naming file, line, id and what is wrong, for
    such a row, for an id used twice and for a file without rows; with report each goes there and the rest is read.
    note: what is odd about a row that is not wrong, counted in RowFile.notes.
    """
    report, wrong, notes = report or _raise, 0, Counter()
    offsets, lines, ids = array("q"), array("q"), array("q")
    for offset, line, text in raw_lines(path):
        try:
            row = parse(text, f"{path}:{line}")
            _check_named(row, check, f"{path}:{line}")
        except ValueError as error:
            report(error)
            wrong += 1
            continue
        notes.update(note(row))
        offsets.append(offset)
        lines.append(line)
        ids.append(hash(str(row["id"])))
    if not offsets and not wrong:
        report(ValueError(f"{path}: holds no examples"))
    rows = RowFile(path, np.array(offsets, dtype=np.int64), np.array(lines, dtype=np.int64), notes)
    again = _check_unique(rows, np.array(ids), report)
    if again:
        return RowFile(path, np.delete(rows.offsets, again), np.delete(rows.lines, again), notes)
    return rows


def _check_named(row: Row, check: Callable[[Row], None], where: str) -> None:
    try:
        check(row)
    except ValueError as error:
        raise ValueError(f"{where} (id {row.get('id')!r}): {error}") from error


def _check_unique(rows: RowFile, ids: np.ndarray, report: Callable[[ValueError], None]) -> list[int]:
    """Numbers of the rows whose id was used before, which are reported.

    ids: (n,) int64, a hash of each row's id: eight bytes a row, however long the ids are.
    """
    used = []
    order = ids.argsort(kind="stable")
    again = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    for first, second in sorted(zip(order[again].tolist(), order[again + 1].tolist(), strict=True)):
        name = rows[second]["id"]
        if str(rows[first]["id"]) == str(name):
            used.append(second)
            where, before = f"{rows.path}:{rows.lines[second]}", rows.lines[first]
            report(ValueError(f"{where}: id {name!r} was used in line {before} already, ids must be unique"))
    return used


def _raise(error: ValueError) -> None:
    raise error
