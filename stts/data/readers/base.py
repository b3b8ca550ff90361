"""What every reader of published annotations has, and what it makes of a row."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True)
class Entry:
    """Questions and answers about one video."""

    where: str
    """File and number of the row, which become the example's id."""
    videos: tuple[str, ...]
    """What the video may be called, the likeliest first."""
    turns: tuple[tuple[str, str], ...]
    """(question, answer), at least one."""
    context: str = ""
    """Said once, before the first question."""
    start: float | None = None
    end: float | None = None
    """The part of the video that is shown, in seconds. None: from its beginning, to its end."""

    def add(self, other: Entry) -> Entry:
        """The same with the other's turns after it."""
        return dataclasses.replace(self, turns=self.turns + other.turns)


@dataclass(frozen=True)
class Broken:
    """A row of which no example can be made."""

    where: str
    reason: str


@dataclass(frozen=True)
class Unused(Broken):
    """A row that is not broken, but not for training either, as its publishers say."""


class PublishedReader:
    """One published layout. files: those to read; base: the folder they are in; root: that of the videos."""

    suffixes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, files: Sequence[Path], base: Path, root: Path) -> None:
        self.files, self.base, self.root = files, base, root

    def entries(self) -> Iterator[Entry | Broken]:
        """What the files hold, row by row."""
        raise NotImplementedError

    def find(self, entry: Entry) -> str | None:
        """The video's path below the root; None when it is not there. Raises ValueError when it leads out."""
        raise NotImplementedError

    def where(self, file: Path, number: int) -> str:
        """How a row is called: its file, without the suffix, and its number in there, from 0."""
        return f"{file.relative_to(self.base).with_suffix('').as_posix()}:{number}"
