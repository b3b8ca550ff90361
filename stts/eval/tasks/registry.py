"""From the settings of a benchmark to its questions, checked: unique ids, videos in place."""

from __future__ import annotations

from collections.abc import Callable

from .base import BenchmarkSpec, Question, check_unique_ids
from .data import load_test_rows
from .table import load_table, missing_files

LOADERS: dict[str, Callable[[BenchmarkSpec], list[Question]]] = {
    "data": load_test_rows,
    "table": load_table,
}
"""By what `task` says in the YAML of a benchmark."""

NAMED = 5
"""Missing videos that an error lists by name."""


def load_questions(
    spec: BenchmarkSpec, limit: int | None = None, allow_missing: bool = False
) -> list[Question]:
    """The questions of a benchmark, all or the first `limit`, after checking that their videos are there.

    allow_missing: go on when some videos are missing, never when all are; the runner counts them as wrong.
    Raises ValueError that says which files are wanted, where, and how to get them; and as the loader does.
    """
    if spec.task not in LOADERS:
        raise ValueError(f"benchmark.task is {spec.task!r}, must be one of {', '.join(LOADERS)}")
    questions = LOADERS[spec.task](spec)[:limit]
    if not questions:
        raise ValueError(f"benchmark {spec.name} has no questions")
    check_unique_ids(questions)
    videos = dict.fromkeys(question.video for question in questions)
    missing = [str(video) for video in videos if not video.is_file()]
    if missing and (not allow_missing or len(missing) == len(videos)):
        rest = [f"and {len(missing) - NAMED} more of {len(videos)} videos"] if len(missing) > NAMED else []
        raise ValueError(missing_files(spec, missing[:NAMED] + rest))
    return questions
