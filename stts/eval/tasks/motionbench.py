"""MotionBench: a line a video with its questions; the answers of the hidden half are "NA"."""

from __future__ import annotations

from collections.abc import Iterator

from .lettered import Row, questions_of


def parse(row: Row) -> Iterator[Row]:
    return questions_of(row, withheld=("NA",))
