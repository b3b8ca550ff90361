"""Published annotations -> rows of this library: written once as JSONL, then read like anyone's own.

A reader knows one layout. It says what each row of the published files holds, and where its video is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...files.make_once import make_once
from ..rows import check_row
from .base import Broken, Entry, PublishedReader, Unused

if TYPE_CHECKING:
    from ..spec import PublishedData

VERSION = 2
"""Raise it when the same files would give other rows: older folders are then made anew."""
SHOWN = 10
"""Rows that an error message lists."""


def convert(spec: PublishedData) -> tuple[Path, None, Path]:
    """The JSONL file that holds published annotations, written if it is not there yet, and the videos' root.

    Beside it left_out.jsonl lists the rows that are not in it, and why. Raises ValueError when there is nothing to
    read, when videos are missing (unless spec.missing_videos is "skip") and when more than spec.max_bad_fraction of
    the rows are broken.
    """
    annotations = Path(spec.annotations)
    reader = _reader(spec.name)
    files = _files(annotations, reader.suffixes)
    base = annotations if annotations.is_dir() else annotations.parent
    root = Path(spec.root) if spec.root else base
    folder = Path(spec.folder or f"outputs/data/{spec.name}-{annotations.stem}")
    stats = {str(file.relative_to(base)): [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
    asked = {"max_turns": spec.max_turns, "missing_videos": spec.missing_videos}
    settings = {"version": VERSION, "name": spec.name, "root": str(root.resolve()), "files": stats, **asked}
    make_once(folder, settings, lambda partial: _write(partial, spec, reader(files, base, root)))
    return folder / "train.jsonl", None, root


def _reader(name: str) -> type[PublishedReader]:
    if name == "llava_video":
        from .llava_video import LlavaVideo

        return LlavaVideo
    from .molmo2 import Molmo2

    return Molmo2


def _files(annotations: Path, suffixes: tuple[str, ...]) -> list[Path]:
    if annotations.is_dir():
        files = sorted(path for path in annotations.rglob("*") if path.suffix in suffixes)
    else:
        files = [annotations] if annotations.is_file() else []
    if not files or files[0].suffix not in suffixes:
        wanted = " or ".join(suffixes)
        raise ValueError(
            f"data.annotations is {annotations}, must be a {wanted} file or a folder that has some"
        )
    return files


def _write(folder: Path, spec: PublishedData, reader: PublishedReader) -> None:
    """Fill a folder with train.jsonl and left_out.jsonl."""
    kept, missing, broken, unused = 0, [], [], []
    with (folder / "train.jsonl").open("w", encoding="utf-8") as out:
        for entry in join(_entries(reader, broken, unused), spec.max_turns):
            try:
                video = reader.find(entry)
                row = _row(entry, video)
            except ValueError as error:
                broken.append(Broken(entry.where, str(error)))
                continue
            if video is None:
                missing.append(Broken(entry.where, f"there is no video {entry.videos[0]} in {reader.root}"))
                continue
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            kept += 1
    _refuse(spec, kept, missing, broken, unused)
    with (folder / "left_out.jsonl").open("w", encoding="utf-8") as log:
        log.writelines(
            json.dumps({"row": b.where, "reason": b.reason}) + "\n" for b in broken + missing + unused
        )
    if broken or missing or unused:
        print(
            f"{spec.annotations}: {kept} examples, {len(missing)} left out because their video is not there, "
            f"{len(broken)} because they are broken, {len(unused)} because they are not for training; "
            "left_out.jsonl beside the examples lists them"
        )


def _entries(reader: PublishedReader, broken: list[Broken], unused: list[Broken]) -> Iterator[Entry]:
    for entry in reader.entries():
        if isinstance(entry, Unused):
            unused.append(entry)
        elif isinstance(entry, Broken):
            broken.append(entry)
        else:
            yield entry


def _row(entry: Entry, video: str | None) -> dict[str, Any]:
    context = f"{entry.context}\n" if entry.context else ""
    messages = []
    for i, (question, answer) in enumerate(entry.turns):
        messages.append({"role": "user", "content": question if i else context + question})
        messages.append({"role": "assistant", "content": answer})
    part = {"start": entry.start, "end": entry.end}
    row = {"id": entry.where, "video": video or entry.videos[0], "messages": messages}
    row |= {key: seconds for key, seconds in part.items() if seconds is not None}
    check_row(row)
    return row


def join(entries: Iterable[Entry], max_turns: int) -> Iterator[Entry]:
    """Entries about the same part of a video as one, until it has max_turns turns; with 1 as they are.

    One that has more by itself stays whole. What a video is still short of comes at the end.
    """
    waiting: dict[Any, Entry] = {}
    for entry in entries:
        key = (entry.videos, entry.context, entry.start, entry.end)
        if held := waiting.pop(key, None):
            if len(held.turns) + len(entry.turns) <= max_turns:
                entry = held.add(entry)
            else:
                yield held
        if len(entry.turns) >= max_turns:
            yield entry
        else:
            waiting[key] = entry
    yield from waiting.values()


def _refuse(
    spec: PublishedData, kept: int, missing: list[Broken], broken: list[Broken], unused: list[Broken]
) -> None:
    """Raises ValueError when too much is left out."""
    total = kept + len(missing) + len(broken) + len(unused)
    if len(broken) > math.floor(spec.max_bad_fraction * total):
        raise ValueError(
            f"{len(broken)} of {total} rows of {spec.annotations} are broken, data.max_bad_fraction is "
            f"{spec.max_bad_fraction}:\n{_listed(broken)}"
        )
    if missing and spec.missing_videos == "error":
        raise ValueError(
            f"{len(missing)} of {total} rows of {spec.annotations} are about videos that are not there; set "
            f"data.root, or leave them out with data.missing_videos=skip:\n{_listed(missing)}"
        )
    if not kept:
        raise ValueError(
            f"{spec.annotations}: of {total} rows none is left; {len(missing)} have no video, {len(unused)} are not "
            "for training"
        )


def _listed(rows: list[Broken]) -> str:
    more = [f"  and {len(rows) - SHOWN} more"] if len(rows) > SHOWN else []
    return "\n".join([f"  {row.where}: {row.reason}" for row in rows[:SHOWN]] + more)
