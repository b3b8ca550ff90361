"""A JSONL file as a sequence of rows that are read when asked for: files may be larger than memory."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..files.jsonl import Row, parse, raw_lines


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
