"""Benchmarks that are tables of questions beside a folder of videos: all that differs is in their YAML."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...data.prompts import LETTERS, without_letters
from ...data.rows import resolve_video
from .benchmark import Benchmark, Fields, TableBenchmark
from .files import Row, read_annotations, read_object
from .hub import at_revision, revision_of
from .question import Question
from .subtitles import Subtitles

logger = logging.getLogger(__name__)

Parse = Callable[[Row], Iterable[Row]]
"""A row as it stands in a file -> one for each question, with columns that Fields can name."""


class UnanswerableError(ValueError):
    """The right answer of a question is none of its options."""


def load_table(spec: TableBenchmark, parse: Parse = lambda row: [row]) -> list[Question]:
    """Read the annotation files of a benchmark.

    Raises ValueError listing every file that is missing and how to get it; naming file and row for a row that does
    not hold what the fields of the spec say; when the files are of another commit than pinned, have another number
    of questions than published, or more that cannot be answered.
    """
    for key, value in (("annotations", spec.annotations), ("fields.video", spec.fields.video)):
        if not value:
            raise ValueError(f"benchmark.{key} is not set, a benchmark with task={spec.task} needs it")
    paths = annotation_files(spec)
    if missing := [path for path in paths if not path.is_file()]:
        videos = " or ".join(str(Path(spec.data_root, name)) for name in spec.fields.video)
        names = [*(f"{path}  (annotations)" for path in missing), f"{videos}  (videos)"]
        raise ValueError(missing_files(spec, names))
    revision_of(spec, paths)
    lookups = _lookups(spec)
    found = [item for file in _files(spec) for item in _questions(spec, parse, lookups, *file)]
    lost = [item for item in found if isinstance(item, UnanswerableError)]
    if spec.num_questions not in (None, len(found)):
        raise ValueError(
            f"{', '.join(spec.annotations)} in {spec.data_root} has {len(found)} questions, must have "
            f"{spec.num_questions} as published: fetch it again, or set benchmark.num_questions=null"
        )
    if len(lost) > spec.num_unanswerable:
        raise lost[-1]
    for error in lost:
        logger.warning("left out: %s", error)
    return [item for item in found if isinstance(item, Question)]


def annotation_files(spec: TableBenchmark) -> list[Path]:
    return [path for path, _, _ in _files(spec)]


def annotations_digest(spec: TableBenchmark) -> str:
    """A short name for the content of the annotation files: tells one published revision from another."""
    digest = hashlib.sha256()
    for path in [*annotation_files(spec), *_lookup_files(spec).values()]:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _files(spec: TableBenchmark) -> Iterator[tuple[Path, Row, Fields]]:
    """Each annotation file, what stands in all of its rows, and how these become questions."""
    for part, given in (spec.parts or {"": {}}).items():
        columns = {"part": part, **{key: value for key, value in given.items() if key != "fields"}}
        fields = dataclasses.replace(spec.fields, **given.get("fields", {}))
        for name in spec.annotations:
            try:
                yield Path(spec.data_root, name.format_map(columns)), columns, fields
            except KeyError as error:
                raise ValueError(
                    f"benchmark.annotations is {name!r}, part {part!r} has no {error}"
                ) from error


def _lookup_files(spec: TableBenchmark) -> dict[str, Path]:
    """Of the columns that a field is about."""
    root = Path(spec.data_root)
    return {name: root / entry["file"] for name, entry in spec.lookup.items() if spec.fields.names(name)}


def _lookups(spec: TableBenchmark) -> dict[str, tuple[str, Row]]:
    """Name of a column -> template of the key to look up, and the object to look it up in."""
    files = _lookup_files(spec)
    if missing := [f"{path}  (column {name})" for name, path in files.items() if not path.is_file()]:
        raise ValueError(missing_files(spec, missing))
    return {name: (spec.lookup[name]["key"], read_object(path)) for name, path in files.items()}


def _questions(
    spec: TableBenchmark,
    parse: Parse,
    lookups: Mapping[str, tuple[str, Row]],
    path: Path,
    columns: Row,
    fields: Fields,
) -> Iterator[Question | UnanswerableError]:
    """The questions of one file, with an error in place of each that cannot be answered."""
    for number, row in enumerate(read_annotations(path)):
        try:
            for parsed in parse({"row": number, **columns, **row}):
                found = {name: values.get(key.format_map(parsed)) for name, (key, values) in lookups.items()}
                try:
                    yield _question(spec, fields, {**found, **parsed})
                except UnanswerableError as error:
                    yield UnanswerableError(f"{path}: row {number}: {error}")
        except KeyError as error:
            raise ValueError(
                f"{path}: row {number} has no column {error}, it has: {', '.join(row)}"
            ) from error
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: row {number}: {error}") from error


def _question(spec: TableBenchmark, fields: Fields, row: Row) -> Question:
    root = Path(spec.data_root)
    options = _options(row, fields.options)
    return Question(
        id=fields.id.format_map(row),
        video=_video(root, [template.format_map(row) for template in fields.video], fields.frame_fps),
        question=fields.question.format_map(row).strip(),
        options=options,
        answer=_answer(fields.answer, row[fields.answer], fields.answer_kind, options),
        category=fields.category.format_map(row),
        groups={kind: _labels(row, template) for kind, template in fields.groups.items()},
        start=_seconds(row, fields.start),
        end=_seconds(row, fields.end),
        end_frame=_frame(row, fields.end_frame),
        frame_fps=fields.frame_fps,
        prompt=spec.prompt,
        subtitles=_subtitles(root, fields, row),
        root=root,
    )


def _options(row: Row, columns: Sequence[str]) -> tuple[str, ...]:
    """The options without letters, which go only where every option carries its own: "A. Lincoln" stays."""
    values = row[columns[0]] if len(columns) == 1 else [row[column] for column in columns]
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{', '.join(columns)} {values!r} must be a list of texts")
    if not values:
        raise ValueError(f"{', '.join(columns)} is empty, must be a list of at least 2 texts")
    return tuple(value.strip() for value in without_letters(values))


def _answer(column: str, value: Any, kind: str, options: Sequence[str]) -> int:
    """Index of the right option; the first of them where its text stands twice."""
    text = str(value).strip()
    if kind == "text":
        if value is None or text not in options:
            raise UnanswerableError(f"{column} {text!r} is none of the options {list(options)}")
        return options.index(text)
    if kind == "index":
        if text not in map(str, range(len(options))):
            raise ValueError(f"{column} {text!r} must be an index from 0 to {len(options) - 1}")
        return int(text)
    letter = text.strip("().: ")
    if len(letter) != 1 or letter not in LETTERS[: len(options)]:
        raise ValueError(f"{column} {text!r} must be a letter from A to {LETTERS[len(options) - 1]}")
    return LETTERS.index(letter)


def _labels(row: Row, template: str) -> tuple[str, ...]:
    value = row.get(template, None) if "{" not in template else template.format_map(row)
    if value is None:
        raise KeyError(template)
    return (value,) if isinstance(value, str) else tuple(map(str, value))


def _seconds(row: Row, column: str) -> float | None:
    if not column or row[column] is None:
        return None
    if isinstance(row[column], bool) or not isinstance(row[column], int | float):
        raise ValueError(f"{column} is {row[column]!r}, must be seconds")
    return float(row[column])


def _frame(row: Row, column: str) -> int | None:
    if not column or row[column] is None:
        return None
    if isinstance(row[column], bool) or not isinstance(row[column], int):
        raise ValueError(f"{column} is {row[column]!r}, must be the number of a frame")
    return row[column] if row[column] > 0 else None


def _subtitles(root: Path, fields: Fields, row: Row) -> Subtitles | None:
    if not fields.subtitles:
        return None
    path = resolve_video(root, fields.subtitles.format_map(row))
    offset = _seconds(row, fields.subtitle_offset)
    return Subtitles(path, offset or 0.0, _seconds(row, fields.duration))


def _video(root: Path, names: Sequence[str], frame_fps: float | None) -> Path:
    """The first of the candidates that exists, else the first of them."""
    paths = [resolve_video(root, name) for name in names]
    exists = Path.is_file if frame_fps is None else Path.is_dir
    return next((path for path in paths if exists(path)), paths[0])


def missing_files(spec: Benchmark, names: Sequence[str]) -> str:
    """The text that says which files a benchmark wants, where, and how to get them."""
    lines = [f"benchmark {spec.name} needs files that are not there:", *(f"  {name}" for name in names)]
    if not isinstance(spec, TableBenchmark):
        return "\n".join(lines)
    if spec.data_root:
        lines.append(
            f"benchmark.data_root is {spec.data_root}; if they are elsewhere: benchmark.data_root=FOLDER"
        )
    if spec.how_to_get:
        commands = spec.how_to_get.strip().replace("{data_root}", spec.data_root)
        commands = commands.replace("{at}", at_revision(spec))
        lines += ["to get them:", *(f"  {line}" for line in commands.splitlines())]
    return "\n".join(lines)
