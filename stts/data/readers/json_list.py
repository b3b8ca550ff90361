"""A file that is one JSON list, object by object: the whole of it is never in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

CHUNK = 1 << 20
"""Characters read at a time."""
LONGEST = 1 << 26
"""Characters that one object may have."""


def scan_list(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON list. Raises ValueError naming the file, and the object that cannot be read."""
    with path.open(encoding="utf-8-sig") as file:
        buffer = _Buffer(file)
        if buffer.next() != "[":
            raise ValueError(f"{path}: must hold a JSON list of objects")
        buffer.skip()
        number = 0
        while (character := buffer.next()) != "]":
            if number:
                _expect(path, number, character, ",")
                buffer.skip()
                character = buffer.next()
            _expect(path, number, character, "{")
            yield buffer.value(path, number)
            number += 1


class _Buffer:
    """Text of a file from a place on that moves."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.text, self.at = file, "", 0

    def next(self) -> str:
        """The next character that is not blank; "" at the end."""
        while True:
            while self.at < len(self.text):
                if not self.text[self.at].isspace():
                    return self.text[self.at]
                self.at += 1
            if not self._more():
                return ""

    def skip(self) -> None:
        self.at += 1

    def value(self, path: Path, number: int) -> dict[str, Any]:
        """The object that begins here; reading goes on behind it."""
        while True:
            try:
                found, self.at = json.JSONDecoder().raw_decode(self.text, self.at)
                return found
            except RecursionError as error:
                raise ValueError(f"{path}: object {number} is not valid JSON: nested too deep") from error
            except json.JSONDecodeError as error:
                if len(self.text) - self.at > LONGEST or not self._more():
                    raise ValueError(f"{path}: object {number} is not valid JSON: {error.msg}") from error

    def _more(self) -> bool:
        try:  # doubling: long objects are parsed again
            chunk = self.file.read(max(CHUNK, len(self.text) - self.at))
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.file.name}: is not UTF-8: {error}") from error
        self.text, self.at = self.text[self.at :] + chunk, 0
        return bool(chunk)


def _expect(path: Path, number: int, found: str, wanted: str) -> None:
    if found != wanted:
        what = f"{found!r}" if found else "the file ends"
        raise ValueError(f"{path}: not valid JSON before object {number}: {what} where {wanted!r} must be")
