"""LVBench: a line a video with its questions, four options each."""

from __future__ import annotations

from collections.abc import Iterator

from .lettered import Row, questions_of


def parse(row: Row) -> Iterator[Row]:
    for question in questions_of(row):
        if len(question["options"]) != 4:
            raise ValueError(
                f"question {question.get('uid')!r} has {len(question['options'])} options, must have 4"
            )
        yield question
