"""Rows of a video-QA file: reading, checking, and the conversation each one stands for.

A row is {"id", "video", "question", "answer", "options"?, "start"?, "end"?} or {"id", "video", "messages"}.
`video` is relative to the data root; null makes an example of text alone. What else stands in it, and what other
trainers mean by it, is in foreign.py.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path, PurePath
from typing import Any

from .evidence import evidence_items
from .foreign import check_foreign, row_notes
from .prompts import LETTERS, Message, check_messages, check_text, multiple_choice_prompt, without_letters
from .rowfile import RowFile, index_rows

LONGEST = 1e8
"""Seconds that a video may have: three years."""


def resolve_video(root: str | PathLike, name: str) -> Path:
    """The file `name` under `root`, which need not exist.

    Raises ValueError when it is absolute, climbs with '..', or leads out of the root through a symlink.
    """
    _check_relative(name)
    root = Path(root).resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise ValueError(
            f"video {name!r} leads out of the data root {root} to {path}; move the file or the root"
        )
    return path


def _check_relative(name: Any) -> None:
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise ValueError(f"video is {name!r}, must be a file name")
    check_text(name, "video")
    path = PurePath(name)
    if path.anchor or ".." in path.parts:
        raise ValueError(
            f"video is {name!r}, must be relative to the data root and stay inside it, without '..'"
        )


def answer_index(answer: str | int, options: Sequence[str]) -> int:
    """Which option an answer names: by its text, else its letter, else its zero-based index.

    Of identical options the first. Raises ValueError when it names none, and for an index where an option begins with
    a number.
    """
    if isinstance(answer, str):
        letter = answer.strip().upper()
        for texts in ([option.strip() for option in options], without_letters(options)):
            if answer.strip() in texts:
                return texts.index(answer.strip())
        if len(letter) == 1 and letter in LETTERS[: len(options)]:
            return LETTERS.index(letter)
    elif isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(options):
        if not any(map(_begins_with_number, options)):
            return answer
        raise ValueError(
            f"answer is the number {answer}, which may be an index or one of the options {options}: give the "
            "option's text or letter"
        )
    raise ValueError(
        f"answer is {answer!r}, must be the text, letter or index of one of the options {options}"
    )


def _begins_with_number(text: str) -> bool:
    """Also "$2", "2nd", "-2 °C" and "②": a number given as answer may mean it."""
    return re.match(r"\W*\d", unicodedata.normalize("NFKC", text)) is not None


def row_options(row: Mapping[str, Any]) -> list[str]:
    """The options of a row, without letters of their own. Raises ValueError for what is no list of texts."""
    options = row["options"]
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise ValueError(f"options is {options!r}, must be a list of texts")
    for option in options:
        check_text(option, "options")
    bare = without_letters(options)
    if not all(option.strip() for option in bare):
        raise ValueError(f"options is {options!r}, one is empty")
    return bare


def row_messages(row: Mapping[str, Any]) -> list[Message]:
    """The conversation of one row; a multiple-choice answer becomes its letter.

    Raises ValueError naming the key that is missing or wrong.
    """
    if "messages" in row:
        if not isinstance(row["messages"], list):
            raise ValueError(f"messages is {row['messages']!r}, must be a list of turns")
        check_messages(row["messages"])
        if len(row["messages"]) % 2:
            raise ValueError("messages ends with the user's turn, must end with the assistant's")
        return row["messages"]
    question, options, answer = _text(row, "question"), row.get("options"), row.get("answer")
    if options is None:
        return _turns(question, _text(row, "answer"))
    prompt = multiple_choice_prompt(question, row_options(row))
    return _turns(prompt, LETTERS[answer_index(answer, options)])


def _turns(question: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _text(row: Mapping[str, Any], key: str) -> str:
    if key not in row:
        raise ValueError(f"{key} is missing")
    if not isinstance(row[key], str) or not row[key].strip():
        raise ValueError(f"{key} is {row[key]!r}, must be text")
    check_text(row[key], key)
    return row[key]


def _seconds(row: Mapping[str, Any], key: str) -> float | None:
    value = row.get(key)
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LONGEST
    ):
        raise ValueError(f"{key} is {value!r}, must be seconds from the start of the video")
    return value


def check_row(row: Mapping[str, Any]) -> None:
    """Raises ValueError naming the key, unless an example can be made of a row (its video is not looked at)."""
    check_foreign(row)
    for key in ("id", "video"):
        if key not in row:
            raise ValueError(f"{key} is missing")
    if isinstance(row["id"], bool) or not isinstance(row["id"], str | int) or row["id"] == "":
        raise ValueError(f"id is {row['id']!r}, must be text or a whole number")
    check_text(str(row["id"]), "id")
    if row["video"] is not None:
        _check_relative(row["video"])
    start, end = _seconds(row, "start"), _seconds(row, "end")
    if row["video"] is None and (start is not None or end is not None):
        raise ValueError("start or end is given, but video is null: name the video, or remove them")
    if end is not None and end <= (start or 0):
        raise ValueError(f"end is {end}, must be after start {start or 0}")
    if row.get("evidence") is not None:
        _check_evidence(row["evidence"])
    row_messages(row)


def _check_evidence(evidence: Any) -> None:
    try:
        evidence_items(evidence, [0.0], 1, 1)
    except (TypeError, KeyError, OverflowError) as error:
        raise ValueError(
            f"evidence is {evidence!r}, must be a list of {{start, end, box: [x0, y0, x1, y1]}}"
        ) from error


def checked_rows(path: Path) -> RowFile:
    """The rows of a file that can be trained on, still on disk.

    Raises ValueError, naming file, line, id and key, for a row that cannot, for an id used twice and for a
    file without rows.
    """
    return index_rows(Path(path), check_row, note=row_notes)
