"""Molmo2's video sets (allenai/Molmo2-* on the hub), parquet files without their videos.

By their columns: Molmo2-AskModelAnything has video_id, question, answer; Molmo2-VideoCapQA one question a row
(video_id, Question, Answer, NegativeAnswers) or, in LongCapQA, a list of them (video_id, qa_list);
Molmo2-VideoSubtitleQA is as the former, with subtitle, a list of {start, end, text} in seconds; Molmo2-Cap has
captions of several kinds, of which the longest, video_frame_merged_caption, is learned; Molmo2-VideoPoint is in
points.py. Right and wrong answers are put in an order that is drawn from the question itself, and the letter is to be
answered. Tracking (Molmo2-VideoTrack) is refused: which times an answer lists depends on the frames that are drawn.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from ..prompts import LETTERS, multiple_choice_prompt
from .base import Broken, Entry, PublishedReader
from .points import is_pointing, pointing

VIDEOS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v")
NAMES = ("{}", "v_{}", "ytb_{}", "{}_2fps")
"""What a file is called, by its id: Molmo2-Cap shares videos with LLaVA-Video-178K, Molmo2-VideoPoint has them at two
frames a second as well."""
CAPTIONS = ("video_frame_merged_caption", "merged_caption")
DESCRIBE = "Describe this video in detail."
BATCH = 1024
"""Rows in memory at a time."""


class Molmo2(PublishedReader):
    """Videos are found by their id anywhere under the root: {id}.mp4, or a folder {id} with a video in it."""

    suffixes: ClassVar[tuple[str, ...]] = (".parquet",)

    def entries(self) -> Iterator[Entry | Broken]:
        for file in self.files:
            for number, row in enumerate(_rows(file)):
                where = self.where(file, number)
                try:
                    if is_pointing(row):
                        yield pointing(where, row)
                    elif found := turns(row):
                        yield Entry(where, (str(row["video_id"]),), found, _context(row))
                except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
                    yield Broken(where, f"{type(error).__name__}: {error}")

    def find(self, entry: Entry) -> str | None:
        names = (name.format(entry.videos[0]) for name in NAMES)
        return next((self.index[name] for name in names if name in self.index), None)

    @cached_property
    def index(self) -> dict[str, str]:
        """Name of a video without its suffix, by itself and after that of its folder (as in the id sora2/cat), and
        name of a folder with one video -> its path below the root."""
        found: dict[str, str] = {}
        for folder, folders, names in os.walk(self.root):
            folders.sort()
            videos = sorted(name for name in names if name.lower().endswith(VIDEOS))
            paths = [(Path(folder) / name).relative_to(self.root).as_posix() for name in videos]
            for name, path in zip(videos, paths, strict=True):
                found.setdefault(Path(name).stem, path)
                found.setdefault(f"{Path(folder).name}/{Path(name).stem}", path)
            if len(videos) == 1 and Path(folder) != self.root:
                found.setdefault(Path(folder).name, paths[0])
        return found


def turns(row: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Questions and answers of a row; none when it has no answer. Raises ValueError for columns it does not know."""
    if "qa_list" in row:
        return tuple(_choice(row["video_id"], qa) for qa in row["qa_list"])
    if "Question" in row:
        return (_choice(row["video_id"], row),)
    if "question" in row and "answer" in row:
        question, answer = row["question"].strip(), row["answer"].strip()
        return ((question, answer),) if answer else ()
    if caption := next((row[name] for name in CAPTIONS if row.get(name)), None):
        return ((DESCRIBE, caption.strip()),)
    if any(name in row for name in CAPTIONS):
        return ()
    raise ValueError(f"its columns are {', '.join(row)}, of which no question and answer can be made")


def _choice(video_id: str, qa: Mapping[str, Any]) -> tuple[str, str]:
    """A multiple-choice question and the letter of its answer; a plain question where there are no wrong answers."""
    question, answer = qa["Question"].strip(), qa["Answer"].strip()
    options = [answer, *(wrong.strip() for wrong in qa.get("NegativeAnswers") or ())]
    if len(options) == 1:
        return question, answer
    drawn = hashlib.sha256(f"{video_id}\n{question}\n{answer}".encode()).digest()
    random.Random(drawn).shuffle(options)
    return multiple_choice_prompt(question, options), LETTERS[options.index(answer)]


def _context(row: Mapping[str, Any]) -> str:
    """Subtitles as a question is asked with them, one a line."""
    lines: Sequence[Mapping[str, Any]] = row.get("subtitle") or ()
    shown = [
        f"{cue['start']:.1f} - {cue['end']:.1f} {cue['text'].strip()}" for cue in lines if cue["text"].strip()
    ]
    return "\n".join(["Subtitles:", *shown]) if shown else ""


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ValueError(f"{file}: reading parquet needs pyarrow: pip install 'stts[eval]'") from error
    try:
        for batch in parquet.ParquetFile(file).iter_batches(BATCH):
            yield from batch.to_pylist()
    except (OSError, ValueError) as error:  # as which pyarrow reports damage
        raise ValueError(f"{file}: cannot be read as parquet: {error}") from error
