"""What the YAML of a benchmark says, as dataclasses: a table of questions, data of this library, or a group."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...settings.typed import expect_keys, from_dict
from .prompts import PROMPTS

ANSWER_KINDS = ("letter", "index", "text")
LENGTHS = ("", "short", "long")


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
class TableBenchmark:
    """Files of questions beside a folder of videos, as configs/benchmark/<name>.yaml describes them."""

    name: str
    task: str = "table"
    """How rows are read: "table", or the name of a parse function in stts.eval.tasks.registry.LOADERS."""
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


@dataclass(frozen=True)
class DataBenchmark:
    """The test questions of a data set of this library: of generated clips, or of a JSONL file of one's own."""

    name: str
    task: str = "data"
    """Tells this kind of benchmark from the others."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the data set, as stts.data.DataSpec takes them."""
    length: str = ""
    """As of a TableBenchmark."""

    def __post_init__(self) -> None:
        _check_choice("benchmark.length", self.length, LENGTHS)


Benchmark = TableBenchmark | DataBenchmark
"""What has questions of its own."""


@dataclass(frozen=True)
class BenchmarkGroup:
    """Benchmarks that are asked one after the other, and the means over them."""

    name: str
    members: Mapping[str, Benchmark]
    """By name."""


def read_benchmark(values: Mapping[str, Any]) -> Benchmark | BenchmarkGroup:
    """What the config group `benchmark` says. Raises ValueError naming a key that is unknown or has a wrong value."""
    if not isinstance(values, Mapping) or not values.get("members"):
        return _read_single(values, "benchmark")
    expect_keys(values, ("name", "members"), "benchmark")
    members = {
        name: _read_single(member, f"benchmark.members.{name}") for name, member in values["members"].items()
    }
    return BenchmarkGroup(values["name"], members)


def _read_single(values: Any, where: str) -> Benchmark:
    kind = DataBenchmark if isinstance(values, Mapping) and values.get("task") == "data" else TableBenchmark
    return from_dict(kind, values, where)


def _check_choice(key: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise ValueError(f"{key} is {value!r}, must be {' or '.join(map(repr, choices))}")


def _several(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
