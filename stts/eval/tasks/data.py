"""The test questions of a data set of this library: the generated clips, or a JSONL file of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...data.load import load_data
from ...data.rows import answer_index, check_row, resolve_video, row_options
from ...data.spec import DataSpec
from ...files.jsonl import read_jsonl
from .benchmark import DataBenchmark
from .question import Question


def load_test_rows(spec: DataBenchmark) -> list[Question]:
    """Questions of the test file that spec.data names, generated first where they are synthetic.

    Raises ValueError where there is no test file, or naming file and row of one that is not multiple choice.
    """
    values = dict(spec.data)
    if "test_annotations" in values:  # one's own files: the training rows are not read here
        values["annotations"] = values["test_annotations"]
    if "test_annotations" in values and not values["test_annotations"]:
        raise ValueError("data.test_annotations is not set: give the JSONL file of test questions")
    paths = load_data(DataSpec.from_dict(values))
    if paths.test is None:
        raise ValueError("data.test_annotations is not set: give the JSONL file of test questions")
    root = paths.root or paths.test.parent
    return [_question(paths.test, root, paths.folder_fps, row) for row in read_jsonl(paths.test)]


def _question(path: Path, root: Path, folder_fps: float, row: Mapping[str, Any]) -> Question:
    try:
        options = tuple(row_options(row))
        check_row({"answer": row["answer"], **row})
        video = resolve_video(root, row["video"])
        return Question(
            id=str(row["id"]),
            video=video,
            question=row["question"],
            options=options,
            answer=answer_index(row["answer"], row["options"]),
            category=row.get("category") or "",
            groups={"cell": (row["cell"],)} if row.get("cell") else {},
            start=row.get("start"),
            end=row.get("end"),
            frame_fps=folder_fps if video.is_dir() else None,
            evidence=tuple(row.get("evidence") or ()),
            root=root,
        )
    except KeyError as error:
        raise ValueError(
            f"{path}: {row.get('id', 'a row')!r} has no {error}, a test question needs it"
        ) from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {row.get('id', 'a row')!r}: {error}") from error
