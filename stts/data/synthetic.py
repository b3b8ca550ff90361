"""Generated video-QA clips: real H.264 files whose questions turn on a few windows of a few frames.

**The clip.** Still grey blocks with fine texture, sensor noise that never repeats, and grey discs that move
in every frame and that no question asks about. In front of them 2 to 4 *events*: a coloured shape shown for
one slot of half a second, never in the first slot. Colours within a clip differ, shapes may repeat. A shape
lies inside one cell of a `grid` x `grid` raster, so that by default its evidence is one window of the tiny
model (grid=1 puts it anywhere).

**Time.** Slots of half a second are centred on the multiples of 0.5 s, the first and the last one cut in half
by the ends of the clip: sampling at 2 frames per second from 0 to the last instant sees every slot exactly
once, at least one encoded frame away from its borders.

**Questions.** Shape or colour of an event, when it was shown, colour and shape of the first and the last, how
many there were, whether there was one (`questions.py`).

**Learnability.** A tiny model learns from many answers per vision pass, so a training row is one conversation
of `questions_per_clip` turns in random order; a test row is a single question. Both read the same, because
both are written by `row_messages`. Options keep one order (alphabetical, early to late, few to many): a
letter then means the same whenever the same kind of question is asked, and need not be bound to an option
anew each time. `shuffle_options` takes that help away. `direct_share` lets a share of the training turns ask
without options and be answered by the word itself.

Everything about clip i of a split follows from (seed, split, i): a larger data set begins with the smaller
one, and the two splits share no random stream.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator

from ..once import make_once
from .questions import TIMES, Event, ask_all
from .render import COLOURS, SHAPES, render_clip
from .rows import row_messages
from .video import write_video

VERSION = 1
"""Raise it when the same settings would give other clips or questions: older folders are then made anew."""
SPLITS = ("train", "test")
ENCODING = {"crf": 18, "options": {"preset": "veryfast"}}
"""Colours and shapes come back as drawn, to a few grey levels; three times as fast as x264's default."""


@dataclass(frozen=True)
class SyntheticSpec:
    """Settings of a generated data set. Raises ValueError, naming the field, when a value is out of range."""

    num_train: int = 256
    """Training clips, one conversation each."""
    num_test: int = 64
    """Test clips, `test_questions_per_clip` questions each."""
    seed: int = 0
    size: int = 72
    """Side of the frames in pixels, even. A shape is 3/16 of it wide, a disc 1/4."""
    slots: int = 10
    """Half seconds in a clip: the frames that sampling at 2 per second returns."""
    fps: int = 8
    """Encoded frames per second, a multiple of 4, so that slots begin and end with a frame."""
    grid: int = 3
    """A shape stays inside one cell of this raster; 1: anywhere in the frame."""
    min_events: int = 2
    max_events: int = 4
    """Coloured shapes per clip, each count equally likely."""
    movers: int = 3
    """Moving grey discs."""
    noise: float = 5.0
    """Standard deviation of the sensor noise, in grey levels of 255."""
    questions_per_clip: int = 12
    """Turns of a training conversation; fewer where a clip does not give so many."""
    test_questions_per_clip: int = 4
    direct_share: float = 0.0
    """Share of training turns that ask without options and are answered by the word."""
    shuffle_options: bool = False
    """Shuffle the options of every question instead of keeping one order."""

    def __post_init__(self) -> None:
        most = min(len(COLOURS), self.slots - 1)
        rules = {
            "num_train": (self.num_train >= 0, "must be 0 or more"),
            "num_test": (self.num_test >= 0, "must be 0 or more"),
            "seed": (self.seed >= 0, "must be 0 or more"),
            "size": (self.size >= 32 and self.size % 2 == 0, "must be even and at least 32"),
            "slots": (self.slots > len(TIMES), "must be at least 4"),
            "fps": (self.fps >= 8 and self.fps % 4 == 0, "must be a multiple of 4, at least 8"),
            "grid": (1 <= self.grid <= 5, "must be 1 to 5: a shape fits no smaller cell"),
            "min_events": (self.min_events >= 1, "must be at least 1"),
            "max_events": (
                self.min_events <= self.max_events <= most,
                f"must be between min_events {self.min_events} and {most}",
            ),
            "movers": (self.movers >= 0, "must be 0 or more"),
            "noise": (self.noise >= 0, "must be 0 or more"),
            "questions_per_clip": (self.questions_per_clip >= 1, "must be at least 1"),
            "test_questions_per_clip": (self.test_questions_per_clip >= 1, "must be at least 1"),
            "direct_share": (0 <= self.direct_share <= 1, "must be in [0, 1]"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)}, {rule}")

    @property
    def num_frames(self) -> int:
        """Encoded frames of a clip; the last one is shown at (slots - 1) / 2 seconds."""
        return (self.slots - 1) * self.fps // 2 + 1

    def slot_of_frame(self, frames: np.ndarray) -> np.ndarray:
        """The slot an encoded frame lies in: (F,) int -> (F,) int."""
        return (2 * frames + self.fps // 2) // self.fps


def make_synthetic(
    folder: str | Path, *, num_train: int = 256, num_test: int = 64, seed: int = 0, **settings: object
) -> Path:
    """Write clips and questions into folder, once; returns the folder.

    Leaves <folder>/videos/*.mp4, train.jsonl and test.jsonl. Every row has "id", "video" (relative to the
    folder) and "events": [{"colour", "shape", "start", "end", "box"}]; train rows "messages"; test rows
    "question", "options", "answer", "category" and "evidence": [{"start", "end", "box"}]. Times are seconds,
    boxes [x0, y0, x1, y1] in coordinates of a frame of side 1. A folder made earlier with the same settings
    is returned as it is, one made with others replaced as a whole. settings: further fields of SyntheticSpec.

    Raises ValueError for a setting out of range or unknown, and when the folder holds files of somebody else.
    """
    known = {field.name for field in dataclasses.fields(SyntheticSpec)}
    if unknown := sorted(set(settings) - known):
        raise ValueError(f"unknown synthetic setting {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    spec = SyntheticSpec(num_train=num_train, num_test=num_test, seed=seed, **settings)
    recorded = {"synthetic": VERSION, **dataclasses.asdict(spec)}
    return make_once(folder, recorded, lambda partial: _write_splits(partial, spec))


def _write_splits(folder: Path, spec: SyntheticSpec) -> None:
    (folder / "videos").mkdir()
    for split in SPLITS:
        with open(folder / f"{split}.jsonl", "w", encoding="utf-8", newline="\n") as file:
            for row in _write_clips(folder, split, spec):
                file.write(json.dumps(row) + "\n")


def _write_clips(folder: Path, split: str, spec: SyntheticSpec) -> Iterator[dict]:
    """Write the clips of one split; yields their rows."""
    for index in range(getattr(spec, f"num_{split}")):
        name = f"{split}_{index:05d}"
        rng, events, questions = make_clip(split, index, spec)
        messages = conversation(questions, spec, rng) if split == "train" else None
        frames = render_clip(events, spec, rng)
        write_video(folder / "videos" / f"{name}.mp4", frames, fps=spec.fps, **ENCODING)
        shown = [{"colour": e.colour, "shape": e.shape, **e.evidence(spec.size)} for e in events]
        clip = {"video": f"videos/{name}.mp4", "events": shown}
        if messages:
            yield {"id": name, **clip, "messages": messages}
        else:
            yield from ({"id": f"{name}_{i}", **clip, **question} for i, question in enumerate(questions))


def make_clip(split: str, index: int, spec: SyntheticSpec) -> tuple[Generator, list[Event], list[dict]]:
    """Events and questions of clip `index`, and the random stream from which its pixels are drawn next."""
    rng = np.random.default_rng((spec.seed, SPLITS.index(split), index))
    events = _draw_events(spec, rng)
    pool = ask_all(events, spec, rng)
    wanted = spec.questions_per_clip if split == "train" else spec.test_questions_per_clip
    return rng, events, [pool[i] for i in rng.permutation(len(pool))[:wanted]]


def _draw_events(spec: SyntheticSpec, rng: Generator) -> list[Event]:
    """The events of one clip, in the order they are shown."""
    count = int(rng.integers(spec.min_events, spec.max_events + 1))
    slots = np.sort(rng.choice(np.arange(1, spec.slots), count, replace=False))
    colours = rng.choice(list(COLOURS), count, replace=False)
    shapes = rng.choice(SHAPES, count)
    side, cell = spec.size * 3 // 16, spec.size // spec.grid
    corners = rng.integers(0, spec.grid, (count, 2)) * cell + rng.integers(0, cell - side + 1, (count, 2))
    return [
        Event(str(colour), str(shape), int(slot), int(x), int(y), side)
        for colour, shape, slot, (x, y) in zip(colours, shapes, slots, corners, strict=True)
    ]


def conversation(questions: Sequence[dict], spec: SyntheticSpec, rng: Generator) -> list[dict]:
    """Questions -> user and assistant turns in alternation, with options or (spec.direct_share) without."""
    messages = []
    for question in questions:
        direct = rng.random() < spec.direct_share
        keys = ("question", "answer") if direct else ("question", "options", "answer")
        messages += row_messages({key: question[key] for key in keys})
    return messages


def vocabulary_texts(clips: int = 300) -> list[str]:
    """Questions and answers, with and without options, that use every word the generator knows."""
    spec = SyntheticSpec(min_events=1, max_events=len(COLOURS), questions_per_clip=99, direct_share=0.5)
    made = (make_clip("train", index, spec) for index in range(clips))
    return [turn["content"] for rng, _, asked in made for turn in conversation(asked, spec, rng)]
