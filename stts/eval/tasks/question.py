"""What every benchmark becomes: multiple-choice questions about videos."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...data.prompts import LETTERS, check_text
from .prompts import prompt_text
from .subtitles import Subtitles


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


def check_unique_ids(questions: Sequence[Question]) -> None:
    """Raises ValueError, naming the id, when two questions share one."""
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise ValueError(
                f"two questions have the id {question.id!r}, ids must be unique within a benchmark"
            )
        seen.add(question.id)
