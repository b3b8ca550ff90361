"""What every benchmark becomes, a list of questions, and what its YAML says, as dataclasses."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...data.prompts import LETTERS, check_text
from .prompts import PROMPTS, prompt_text
from .subtitles import Subtitles

ANSWER_KINDS = ("letter", "index", "text")
LENGTHS = ("", "short", "long")


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
    """The part of the video that is shown, in seconds of the file. None: from its beginning, to its end. What lies
    past the end of the file is not missed: annotations are often rounded, or made for another copy."""
    end_frame: int | None = None
    """Only frames before this one are shown, counted in the file from 0. None: none is held back."""
    frame_fps: float | None = None
    """The video is a folder of images, so many a second (data/frame_folder.py). None: it is a file."""
    evidence: tuple[Mapping[str, Any], ...] = ()
    """Where the answer can be seen, if known: {"start", "end", "box"}, as stts.data.evidence takes them."""
    prompt: str = "letter"
    """How it is put to the model, a name in PROMPTS."""
    subtitles: Subtitles | None = None
    """Shown to the model beside the frames. None: the benchmark is asked without."""
    root: Path | None = field(default=None, compare=False)
    """Folder of the data, from which records name the video. None: they name it as it is."""

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise ValueError(f"question {self.id!r} is empty")
        for text in (self.id, self.question, *self.options, self.category, str(self.video)):
            check_text(text, f"question {self.id!r}: a text")
        if not all(option.strip() for option in self.options):
            raise ValueError(f"question {self.id!r} has options {list(self.options)}, one is empty")
        if not 2 <= len(self.options) <= len(LETTERS):
            raise ValueError(
                f"question {self.id!r} has {len(self.options)} options, must have 2 to {len(LETTERS)}"
            )
        if not 0 <= self.answer < len(self.options):
            raise ValueError(
                f"question {self.id!r} has answer {self.answer}, must be 0 to {len(self.options) - 1}"
            )

    @property
    def clip(self) -> tuple[Path, float | None, float | None, int | None, float | None]:
        """What is shown: questions that have the same can share all work on it."""
        return self.video, self.start, self.end, self.end_frame, self.frame_fps

    def video_is_there(self) -> bool:
        return self.video.is_file() if self.frame_fps is None else self.video.is_dir()

    def text(self, times: Iterable[float]) -> str:
        """What the user says about a video whose frames are shown at these seconds of it."""
        context = self.subtitles.shown(times) if self.subtitles else ""
        return prompt_text(self.question, self.options, self.prompt, context)


@dataclass(frozen=True)
class Fields:
    """How one annotation row becomes a Question.

    Templates are text with column names in braces, such as "data/{videoID}.mp4"; {row} is the row's number, or
    its key where a JSON file holds an object, {part} the name of its part.
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
    end_frame: str = ""
    """Column of the number of the first frame that is not shown; none or 0 and less: all are. Empty: all are."""
    frame_fps: float | None = None
    """Pictures a second, where videos are folders of them. None: videos are files."""
    subtitles: str = ""
    """Template of the path of a subtitle file below data_root, .srt or .json. Empty: asked without subtitles."""
    subtitle_offset: str = ""
    """Column of the seconds that the file's clock shows when the video begins. Empty: 0."""
    duration: str = ""
    """Column of the seconds of the video, outside of which subtitles are left out. Empty: none are."""

    def __post_init__(self) -> None:
        for name in ("video", "options"):
            object.__setattr__(self, name, _several(getattr(self, name)))
        _check_choice("benchmark.fields.answer_kind", self.answer_kind, ANSWER_KINDS)

    def names(self, column: str) -> bool:
        """Whether any template or column setting is about this column."""
        values = [value for value in vars(self).values() if isinstance(value, str | tuple)]
        values += [tuple(self.groups.values())]
        texts = [text for value in values for text in _several(value)]
        return any(text == column or re.search(rf"{{{column}\b", text) for text in texts)


@dataclass(frozen=True)
class BenchmarkSpec:
    """A benchmark as configs/benchmark/<name>.yaml describes it."""

    name: str
    task: str = "table"
    """The loader: a name in stts.eval.tasks.registry.LOADERS."""
    data_root: str = ""
    """Folder that holds annotations and videos."""
    annotations: str | tuple[str, ...] = ()
    """One or more annotation files below data_root, .parquet, .jsonl or .json; templates where there are parts."""
    parts: Mapping[str, Any] = field(default_factory=dict)
    """Name of a part -> what stands in its rows besides their columns, for templates; {fields: ...} in it
    replaces some of the fields. Each part has annotation files of its own. Empty: one part."""
    repo: str = ""
    """Dataset repository on the Hugging Face Hub that has the annotations under the same names. Empty: none."""
    revision: str | None = None
    """Commit of repo: annotations that are missing are fetched from it, those downloaded from another are refused.
    None: nothing is fetched, and any will do. Results name the commit that the files are known to be of."""
    lookup: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Name of a further column -> {file: a JSON object below data_root, key: template of the key to look up}.
    Read only where a field is about that column; a key that is not there gives null."""
    num_questions: int | None = None
    """How many the published files hold; another number is refused. None: any."""
    num_unanswerable: int = 0
    """At most so many, whose right answer is none of their options, are left out, with a warning."""
    num_without_subtitles: int | None = 0
    """How many questions are about a video that has no subtitle file; another number is refused. None: any."""
    fields: Fields = field(default_factory=Fields)
    length: str = ""
    """Of its videos, "short" or "long": which mean over benchmarks it goes into. Empty: neither."""
    prompt: str = "letter"
    """How questions are put, a name in stts.eval.tasks.prompts.PROMPTS."""
    how_to_get: str = ""
    """Commands that fetch the files, shown when some are missing; {data_root} is filled in, and {at}: repo at its
    revision, as hf download takes it."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Settings of a data set of this library, where its test questions are the benchmark."""
    members: Mapping[str, Any] = field(default_factory=dict)
    """The benchmarks of a group, by name, each as its own YAML describes it. Empty: this is one benchmark."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "annotations", _several(self.annotations))
        _check_choice("benchmark.prompt", self.prompt, PROMPTS)
        if self.revision is not None and not re.fullmatch("[0-9a-f]{40}", self.revision):
            raise ValueError(
                f"benchmark.revision is {self.revision!r}, must be a commit, 40 hexadecimal digits, or null: what a "
                "branch or a tag names may change"
            )
        for column, entry in self.lookup.items():
            if set(entry) != {"file", "key"}:
                raise ValueError(f"benchmark.lookup.{column} has {sorted(entry)}, must have file and key")
        _check_choice("benchmark.length", self.length, LENGTHS)
        names = [field.name for field in dataclasses.fields(Fields)]
        for part, columns in self.parts.items():
            for name in columns.get("fields", {}):
                _check_choice(f"a key of benchmark.parts.{part}.fields", name, names)


def _check_choice(key: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise ValueError(f"{key} is {value!r}, must be {' or '.join(map(repr, choices))}")


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
