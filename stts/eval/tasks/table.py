"""Benchmarks that are a table of questions beside a folder of videos: all that differs is in their YAML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...data.prompts import LETTERS
from ...data.rows import read_jsonl, resolve_video
from .base import BenchmarkSpec, Question

Row = Mapping[str, Any]


def load_table(spec: BenchmarkSpec) -> list[Question]:
    """Read the annotation files of a benchmark.

    Raises ValueError listing every file that is missing and how to get it; naming file and row for a row that
    does not hold what the fields of the spec say; when the files have another number of rows than published.
    """
    for key, value in (("annotations", spec.annotations), ("fields.video", spec.fields.video)):
        if not value:
            raise ValueError(f"benchmark.{key} is not set, a benchmark with task=table needs it")
    root = Path(spec.data_root)
    if missing := [name for name in spec.annotations if not (root / name).is_file()]:
        wanted = [f"{root / name}  (annotations)" for name in missing]
        videos = [str(root / name) for name in spec.fields.video]
        raise ValueError(missing_files(spec, [*wanted, f"{' or '.join(videos)}  (videos)"]))
    rows = [(root / name, row) for name in spec.annotations for row in read_rows(root / name)]
    if spec.num_questions not in (None, len(rows)):
        raise ValueError(
            f"{', '.join(spec.annotations)} in {root} has {len(rows)} questions, must have "
            f"{spec.num_questions} as published: fetch it again, or set benchmark.num_questions=null"
        )
    return [_question(spec, root, path, number, row) for number, (path, row) in enumerate(rows)]


def read_rows(path: Path) -> list[Row]:
    """The rows of a .parquet, .jsonl or .json file. Raises ValueError naming a file that cannot be read."""
    if path.suffix == ".jsonl":
        return read_jsonl(path)
    if path.suffix == ".json":
        return _read_json(path)
    if path.suffix == ".parquet":
        return _read_parquet(path)
    raise ValueError(f"{path} must be a .parquet, .jsonl or .json file")


def _read_json(path: Path) -> list[Row]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} must hold a JSON list of objects")
    return rows


def _read_parquet(path: Path) -> list[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(
            f'{path} needs pyarrow to be read: pip install "stts[eval]", or pip install pyarrow'
        ) from error
    try:
        return parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a parquet file that can be read: {error}") from error


def _question(spec: BenchmarkSpec, root: Path, path: Path, number: int, row: Row) -> Question:
    fields, row = spec.fields, {"row": number, **row}
    try:
        options = _options(row, fields.options)
        return Question(
            id=fields.id.format_map(row),
            video=_video(root, [template.format_map(row) for template in fields.video]),
            question=fields.question.format_map(row).strip(),
            options=options,
            answer=_answer(row[fields.answer], fields.answer_kind, options),
            category=fields.category.format_map(row),
            groups={kind: _labels(row, template) for kind, template in fields.groups.items()},
            start=_seconds(row, fields.start),
            end=_seconds(row, fields.end),
        )
    except KeyError as error:
        raise ValueError(f"{path}: row {number} has no column {error}, it has: {', '.join(row)}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: row {number}: {error}") from error


def _options(row: Row, columns: Sequence[str]) -> tuple[str, ...]:
    """The options without letters, which go only where every option carries its own: "A. Lincoln" stays."""
    values = row[columns[0]] if len(columns) == 1 else [row[column] for column in columns]
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"options are {values!r}, must be a list of texts")
    found = [re.match(r"\s*\(?([A-Z])[.):]\s*(.*)", value, re.DOTALL) for value in values]
    if all(m and m[1] == letter for m, letter in zip(found, LETTERS, strict=False)):
        values = [m[2] for m in found if m]
    return tuple(value.strip() for value in values)


def _answer(value: Any, kind: str, options: Sequence[str]) -> int:
    """Index of the right option; the first of them where its text stands twice."""
    if kind == "index":
        return int(value)
    text = str(value).strip()
    if kind == "text":
        if text not in options:
            raise ValueError(f"answer {text!r} is none of the options {list(options)}")
        return options.index(text)
    letter = text.strip("().: ")
    if len(letter) != 1 or letter not in LETTERS[: len(options)]:
        raise ValueError(f"answer {text!r} must be a letter from A to {LETTERS[len(options) - 1]}")
    return LETTERS.index(letter)


def _labels(row: Row, template: str) -> tuple[str, ...]:
    value = row.get(template, None) if "{" not in template else template.format_map(row)
    if value is None:
        raise KeyError(template)
    return (value,) if isinstance(value, str) else tuple(map(str, value))


def _seconds(row: Row, column: str) -> float | None:
    return None if not column or row[column] is None else float(row[column])


def _video(root: Path, names: Sequence[str]) -> Path:
    """The first of the candidates that exists, else the first of them."""
    paths = [resolve_video(root, name) for name in names]
    return next((path for path in paths if path.is_file()), paths[0])


def missing_files(spec: BenchmarkSpec, names: Sequence[str]) -> str:
    """The text that says which files a benchmark wants, where, and how to get them."""
    lines = [f"benchmark {spec.name} needs files that are not there:", *(f"  {name}" for name in names)]
    if spec.data_root:
        lines.append(
            f"benchmark.data_root is {spec.data_root}; if they are elsewhere: benchmark.data_root=FOLDER"
        )
    if spec.how_to_get:
        commands = spec.how_to_get.strip().replace("{data_root}", spec.data_root)
        lines += ["to get them:", *(f"  {line}" for line in commands.splitlines())]
    return "\n".join(lines)
