"""What every benchmark becomes, a list of questions, and what its YAML says, as dataclasses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ANSWER_KINDS = ("letter", "index", "text")


@dataclass(frozen=True)
class Question:
    """One multiple-choice question about one video.

    Raises ValueError, naming the question, when the answer is not one of the options.
    """

    id: str
    """Unique within the benchmark and the same in every run."""
    video: Path
    question: str
    """Without options and without instructions."""
    options: tuple[str, ...]
    """Without letters, in the order shown."""
    answer: int
    """Index of the right option."""
    category: str = ""
    """The label that results are first reported by. Empty: none."""
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Further ways to report: kind of label -> the labels of this question, one or several."""
    start: float | None = None
    end: float | None = None
    """The part of the video that is shown, in seconds of the file. None: from its beginning, to its end."""
    evidence: tuple[Mapping[str, Any], ...] = ()
    """Where the answer can be seen, if known: {"start", "end", "box"}, as stts.data.evidence takes them."""

    def __post_init__(self) -> None:
        if len(self.options) < 2:
            raise ValueError(f"question {self.id!r} has {len(self.options)} options, must have at least 2")
        if not 0 <= self.answer < len(self.options):
            raise ValueError(
                f"question {self.id!r} has answer {self.answer}, must be 0 to {len(self.options) - 1}"
            )


@dataclass(frozen=True)
class Fields:
    """How one annotation row becomes a Question.

    Templates are text with column names in braces, such as "data/{videoID}.mp4"; {row} is the row's number.
    """

    id: str = "{row}"
    """Template."""
    video: str | tuple[str, ...] = ()
    """One or more templates of paths below data_root; the first file that exists is taken."""
    question: str = "{question}"
    """Template."""
    options: str | tuple[str, ...] = "options"
    """The column that holds the list of options, or one column for each option."""
    answer: str = "answer"
    """Column of the right answer."""
    answer_kind: str = "letter"
    """What stands there: "letter", "index" (from 0) or "text" (of an option)."""
    category: str = ""
    """Template."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """Kind of label -> template of it, or the name of a column that holds a list of labels."""
    start: str = ""
    end: str = ""
    """Columns of the shown part, in seconds. Empty: the whole video."""

    def __post_init__(self) -> None:
        for name in ("video", "options"):
            object.__setattr__(self, name, _several(getattr(self, name)))
        if self.answer_kind not in ANSWER_KINDS:
            raise ValueError(
                f"benchmark.fields.answer_kind is {self.answer_kind!r}, must be {' or '.join(ANSWER_KINDS)}"
            )


@dataclass(frozen=True)
class BenchmarkSpec:
    """A benchmark as configs/benchmark/<name>.yaml describes it."""

    name: str
    task: str = "table"
    """The loader: a name in stts.eval.tasks.registry.LOADERS."""
    data_root: str = ""
    """Folder that holds annotations and videos."""
    annotations: str | tuple[str, ...] = ()
    """One or more annotation files below data_root: .parquet, .jsonl or .json with a list."""
    num_questions: int | None = None
    """How many rows the published files have; another number is refused. None: any."""
    fields: Fields = field(default_factory=Fields)
    how_to_get: str = ""
    """Commands that fetch the files, shown when some are missing; {data_root} is filled in."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Settings of a data set of this library, where its test questions are the benchmark."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "annotations", _several(self.annotations))


def _several(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def check_unique_ids(questions: Sequence[Question]) -> None:
    """Raises ValueError, naming the id, when two questions share one."""
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise ValueError(
                f"two questions have the id {question.id!r}, ids must be unique within a benchmark"
            )
        seen.add(question.id)
