"""From the settings of a benchmark to its questions, checked: unique ids, videos and subtitles in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from . import lvbench, motionbench, temp_compass
from .benchmark import Benchmark, BenchmarkGroup, DataBenchmark, TableBenchmark
from .data import load_test_rows
from .hub import fetch, revision_of
from .question import Question, check_unique_ids
from .table import annotation_files, annotations_digest, load_table, missing_files

LOADERS: dict[str, Callable[[Any], list[Question]]] = {
    "data": load_test_rows,
    "table": load_table,
    "lvbench": partial(load_table, parse=lvbench.parse),
    "motionbench": partial(load_table, parse=motionbench.parse),
    "temp_compass": partial(load_table, parse=temp_compass.parse),
}
"""By what `task` says in the YAML of a benchmark."""

NAMED = 5
"""Missing videos that an error lists by name."""


def load_questions(
    spec: Benchmark | BenchmarkGroup, limit: int | None = None, allow_missing: bool = False
) -> list[Question]:
    """The questions of a benchmark, all or the first `limit`, after checking that their videos are there.

    Annotation files that are missing are fetched from the commit that the spec pins. allow_missing: go on when some
    videos are missing, never when all are, or subtitle files cannot be read; the runner counts these as wrong.
    Raises ValueError that says which files are wanted, where, and how to get them; naming a subtitle file that cannot
    be read; and as the loader does.
    """
    if isinstance(spec, TableBenchmark) and (refused := fetch(spec, annotation_files(spec))):
        raise ValueError(f"{refused}\n{what_is_missing(spec)}")
    questions = _read(spec)
    if gap := _subtitle_gap(spec, questions):
        raise ValueError(missing_files(spec, [gap]))
    questions = questions[:limit]
    videos, missing = _videos(questions)
    if missing and (not allow_missing or len(missing) == len(videos)):
        rest = [f"and {len(missing) - NAMED} more of {len(videos)} videos"] if len(missing) > NAMED else []
        raise ValueError(missing_files(spec, missing[:NAMED] + rest))
    for question in questions:
        if question.subtitles and not allow_missing:
            question.subtitles.cues()
    return questions


def what_is_missing(spec: Benchmark) -> str:
    """All that a benchmark lacks, every file by its name, and how to get it; empty when it can be asked.

    Nothing is downloaded where anything is missing.
    """
    if isinstance(spec, DataBenchmark) and spec.data.get("name") == "synthetic":
        return ""  # made when it is asked for
    try:
        questions = _read(spec)
        gap = _subtitle_gap(spec, questions)
        if names := [*_videos(questions)[1], *([gap] if gap else [])]:
            return missing_files(spec, names)
        load_questions(spec)
    except ValueError as error:
        return str(error)
    return ""


def edition_of(spec: Benchmark) -> dict[str, Any]:
    """What of a benchmark its numbers depend on: how it is asked, and which edition of its files was read."""
    if isinstance(spec, DataBenchmark):
        return {"prompt": "letter"}
    return {
        "prompt": spec.prompt,
        "subtitles": bool(spec.fields.subtitles),
        "cut": bool(spec.fields.end_frame),
        "repo": spec.repo,
        "revision": revision_of(spec, annotation_files(spec)),
        "annotations": annotations_digest(spec),
    }


def _read(spec: Benchmark | BenchmarkGroup) -> list[Question]:
    if isinstance(spec, BenchmarkGroup):
        raise ValueError(f"benchmark {spec.name} is a group, choose one of {', '.join(spec.members)}")
    if spec.task not in LOADERS:
        raise ValueError(f"benchmark.task is {spec.task!r}, must be one of {', '.join(LOADERS)}")
    questions = LOADERS[spec.task](spec)
    if not questions:
        raise ValueError(f"benchmark {spec.name} has no questions")
    check_unique_ids(questions)
    return questions


def _videos(questions: Sequence[Question]) -> tuple[list[str], list[str]]:
    """All videos and the missing ones, each once."""
    by_path = {question.video: question for question in questions}
    missing = [str(path) for path, question in by_path.items() if not question.video_is_there()]
    return list(map(str, by_path)), missing


def _subtitle_gap(spec: Benchmark, questions: Sequence[Question]) -> str:
    """Says so when not as many questions are without a subtitle file as published; else empty."""
    if not isinstance(spec, TableBenchmark) or not spec.fields.subtitles:
        return ""
    missing = [q.subtitles.path for q in questions if q.subtitles and not q.subtitles.path.is_file()]
    if spec.num_without_subtitles in (None, len(missing)):
        return ""
    first = f", the first is {missing[0]}" if missing else ""
    return (
        f"{len(missing)} of {len(questions)} questions have no subtitle file, must be "
        f"{spec.num_without_subtitles} as published (or benchmark.num_without_subtitles=null){first}"
    )
