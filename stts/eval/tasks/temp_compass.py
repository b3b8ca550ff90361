"""TempCompass: three tasks, each with its own way to write options; the answer repeats one of their lines.

multi-choice: "A. rising", in a few questions without the letter; caption_matching: "Caption A: it rises.", also
"Sentence A" and "Option 1"; yes_no: no options, the answer is the word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .lettered import Row

LABELS = {"multi-choice": r"(?:[A-Z][.)]\s*)?(.+)", "caption_matching": r"[^:]+:\s*(.+)"}
"""What stands in front of an option's text, by task."""


def parse(row: Row) -> Iterator[Row]:
    """A row whose answer is an index. Raises ValueError for an answer that is not there."""
    question, *lines = (line.strip() for line in row["question"].strip().splitlines())
    answer = row["answer"].strip()
    if row["part"] == "yes_no":
        question, lines, answer = "\n".join([question, *lines]), ["yes", "no"], answer.lower()
        options = lines
    else:
        lines = [line for line in lines if line]
        options = [_text(line, LABELS[row["part"]]) for line in lines]
    if answer not in lines:
        raise ValueError(f"answer {answer!r} is none of the option lines {lines}")
    yield {**row, "question": question, "options": options, "answer": lines.index(answer)}


def _text(line: str, label: str) -> str:
    if not (match := re.fullmatch(label, line)):
        raise ValueError(f"option line {line!r} has no label in front of its text")
    return match[1]
