"""Files and folders that are whole or absent, whatever happens meanwhile: kill -9, a full disk, a power cut.

Everything is written under another name, flushed to the disk, and only then takes its place. What a killed process
leaves behind is hidden and ends in .partial or .old; nothing reads it, and `remove_leftovers` takes it away.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .jsonl import parse, raw_lines

PARTIAL, OLD = "partial", "old"


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yields a folder to fill; on leaving, it is flushed to disk and takes its name from an older one."""
    partial, old = _aside(folder, PARTIAL), _aside(folder, OLD)
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)  # of a run that was killed here
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in (*partial.rglob("*"), partial):
            flush(path)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        flush(folder.parent)
        flush(folder.parent.parent)  # which the first folder in there may be new to
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a name to write a file under, its own for each process; on leaving, it is flushed and becomes path."""
    partial = _aside(path, f"{os.getpid()}.{PARTIAL}")
    try:
        yield partial
        flush(partial)
        partial.replace(path)
        flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file that holds all of text, or what it held before."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows to a JSONL file and see them on disk; a killed process tears the last line at worst."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
        file.flush()
        os.fsync(file.fileno())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file up to the first line that is torn; none when there is no such file."""
    rows = []
    for _, number, line in raw_lines(path) if path.exists() else ():
        try:
            row = parse(line, f"{path}:{number}")
        except ValueError:
            break  # the process died while writing this line; nothing follows it
        if not line.endswith(b"\n"):
            break
        rows.append(row)
    return rows


def keep_rows(path: Path, step: int) -> None:
    """Drop the rows of a JSONL file that come after a step, and a last line that was torn."""
    if path.exists():
        kept = [json.dumps(row) + "\n" for row in read_rows(path) if row["step"] <= step]
        write_whole(path, "".join(kept))


def remove_folder(folder: Path) -> None:
    """Remove a folder that is never seen with only some of its files."""
    old = _aside(folder, OLD)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(folder.rename(old))


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half done directly in a folder."""
    for path in (*folder.glob(f".*.{PARTIAL}"), *folder.glob(f".*.{OLD}")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def flush(path: Path) -> None:
    """See a file, or the names in a folder, on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _aside(path: Path, suffix: str) -> Path:
    """The hidden name beside path under which it is made or kept."""
    return path.with_name(f".{path.name}.{suffix}")
