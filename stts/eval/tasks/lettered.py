"""Options that stand inside the text of a question, and questions listed under their video."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ...data.prompts import LETTERS

Row = Mapping[str, Any]

_OPTION = re.compile(r"\s*\(?([A-Z])[.):]\s*(.*)")


def split_options(text: str) -> tuple[str, list[str]]:
    """Question and options of a text with an option a line: "A. left", "A) left", "A: left" or "(A) left".

    A line without a letter goes on with what stands before it. Raises ValueError when the letters do not run
    A, B, C, ...
    """
    parts = [""]  # the question, then its options
    for line in text.strip().splitlines():
        option = _OPTION.match(line)
        if option and option[1] == LETTERS[len(parts) - 1]:
            parts.append(option[2])
        elif option and len(parts) > 1:
            raise ValueError(
                f"option {option[1]!r} follows {LETTERS[len(parts) - 2]!r}, letters must run A, B, C: {text!r}"
            )
        else:
            parts[-1] += f"\n{line}" if len(parts) == 1 else f" {line}"
    question, *options = (part.strip() for part in parts)
    if len(options) < 2:
        raise ValueError(f"{text!r} must hold the question and then its options, a line each")
    return question, options


def questions_of(row: Row, withheld: Collection[str] = ()) -> Iterator[Row]:
    """The questions that a row about a video lists under "qa", each with the row's own columns.

    withheld: answers that mean that the answer is not public; such questions are left out.
    """
    video = {key: value for key, value in row.items() if key != "qa"}
    for entry in row["qa"]:
        if entry["answer"] in withheld:
            continue
        try:
            question, options = split_options(entry["question"])
        except ValueError as error:
            raise ValueError(f"question {entry.get('uid')!r}: {error}") from error
        yield {**video, **entry, "question": question, "options": options}
