"""Generated video-QA clips: real H.264 files whose questions turn on a few windows of a few frames.

**The clip.** Still grey blocks with fine texture, sensor noise that never repeats, and grey discs that move
in every frame and that no question asks about. In front of them 2 to 4 *events*: a coloured shape shown for
one slot of half a second, never in the first slot. Colours within a clip differ, shapes may repeat. A shape
lies inside one cell of a `grid` x `grid` raster, so that by default its evidence is one window of the tiny
model (grid=1 puts it anywhere).

**Harder clips.** `lamps` flicker and `pan` moves the whole background: novelty without relevance. Further events are
there all the time (`still`), only in the first slot (`opening`) or come slowly and stay (`fading`): relevance without
novelty. `cells` takes clips of several kinds in turns, from the fixed grid of `cells.py`.

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
from . import encode
from .cells import CELLS
from .events import FADE_SLOTS, Event, draw_events
from .questions import TIMES, ask_all
from .render import COLOURS, render_clip
from .rows import row_messages
from .video import write_video

VERSION = 2
"""Raise it when the same settings would give other clips or questions: older folders are then made anew."""
SPLITS = ("train", "test")
ENCODING = {"qp": 20, "options": {"preset": "superfast"}}
"""Colours and shapes come back as drawn, to a few grey levels; twice as fast as x264's default."""


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
    still: int = 0
    """Further events, there from the first slot to the last."""
    opening: int = 0
    """1: a further event in the first slot only."""
    fading: int = 0
    """Further events, each appearing over FADE_SLOTS slots and staying to the end."""
    movers: int = 3
    """Moving grey discs."""
    lamps: int = 0
    """Grey squares, bright and dark in turns of a slot."""
    pan: float = 0.0
    """Speed of the background, in frame widths per second."""
    noise: float = 5.0
    """Standard deviation of the sensor noise, in grey levels of 255."""
    questions_per_clip: int = 12
    """Turns of a training conversation; fewer where a clip does not give so many."""
    test_questions_per_clip: int = 4
    direct_share: float = 0.0
    """Share of training turns that ask without options and are answered by the word."""
    shuffle_options: bool = False
    """Shuffle the options of every question instead of keeping one order."""
    cells: tuple[str, ...] = ()
    """Names of CELLS whose settings the clips have in turns, instead of those above. (): all alike."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", tuple(self.cells))  # JSON and YAML bring a list
        if unknown := [name for name in self.cells if name not in CELLS]:
            raise ValueError(f"cells has {unknown[0]!r}, must be of {', '.join(CELLS)}")
        others = self.still + self.opening + self.fading
        most = min(len(COLOURS) - others, self.slots - 1)
        rules = {
            "num_train": (self.num_train >= 0, "must be 0 or more"),
            "num_test": (self.num_test >= 0, "must be 0 or more"),
            "seed": (self.seed >= 0, "must be 0 or more"),
            "size": (self.size >= 32 and self.size % 2 == 0, "must be even and at least 32"),
            "slots": (self.slots > len(TIMES), "must be at least 4"),
            "fps": (self.fps >= 8 and self.fps % 4 == 0, "must be a multiple of 4, at least 8"),
            "grid": (
                1 <= self.grid <= 5 and self.grid**2 > self.still + self.fading,
                "must be 1 to 5, a shape fits no smaller cell, with cells to spare beside still and fading events",
            ),
            "min_events": (self.min_events >= 1, "must be at least 1"),
            "max_events": (
                self.min_events <= self.max_events <= most,
                f"must be between min_events {self.min_events} and {most}",
            ),
            "still": (self.still >= 0, "must be 0 or more"),
            "opening": (self.opening in (0, 1), "must be 0 or 1: two would have no order"),
            "fading": (
                self.fading >= 0 and (not self.fading or self.slots > FADE_SLOTS + 1),
                f"must be 0 or more, and 0 in clips of fewer than {FADE_SLOTS + 2} slots",
            ),
            "movers": (self.movers >= 0, "must be 0 or more"),
            "lamps": (self.lamps >= 0, "must be 0 or more"),
            "pan": (self.pan >= 0, "must be 0 or more"),
            "noise": (self.noise >= 0, "must be 0 or more"),
            "questions_per_clip": (self.questions_per_clip >= 1, "must be at least 1"),
            "test_questions_per_clip": (self.test_questions_per_clip >= 1, "must be at least 1"),
            "direct_share": (0 <= self.direct_share <= 1, "must be in [0, 1]"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)}, {rule}")

    def of_clip(self, index: int) -> tuple[str, SyntheticSpec]:
        """Cell ("" without cells) and settings of clip `index`."""
        if not self.cells:
            return "", self
        cell = self.cells[index % len(self.cells)]
        return cell, dataclasses.replace(self, cells=(), **CELLS[cell])

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
    folder), "cell" and "events": [{"colour", "shape", "start", "end", "box"}]; train rows "messages"; test rows
    "question", "options", "answer" and "category"; all of them "evidence": [{"start", "end", "box"}]. Times are
    seconds, boxes [x0, y0, x1, y1] in coordinates of a frame of side 1. A folder made earlier with the same settings
    is returned as it is, one made with others replaced as a whole. settings: further fields of SyntheticSpec.

    Raises ValueError for a setting out of range or unknown, and when the folder holds files of somebody else.
    """
    known = {field.name for field in dataclasses.fields(SyntheticSpec)}
    if unknown := sorted(set(settings) - known):
        raise ValueError(f"unknown synthetic setting {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    spec = SyntheticSpec(num_train=num_train, num_test=num_test, seed=seed, **settings)
    recorded = {"synthetic": VERSION, "encoding": encode.VERSION, **dataclasses.asdict(spec)}
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
        cell, settings = spec.of_clip(index)
        rng, events, questions = make_clip(split, index, settings)
        messages = conversation(questions, settings, rng) if split == "train" else None
        frames = render_clip(events, settings, rng)
        write_video(folder / "videos" / f"{name}.mp4", frames, fps=spec.fps, **ENCODING)
        shown = [{"colour": e.colour, "shape": e.shape, **e.evidence(spec.size)} for e in events]
        clip = {"video": f"videos/{name}.mp4", "cell": cell, "events": shown}
        if messages:
            yield {
                "id": name,
                **clip,
                "messages": messages,
                "evidence": [e.evidence(spec.size) for e in events],
            }
        else:
            yield from ({"id": f"{name}_{i}", **clip, **question} for i, question in enumerate(questions))


def make_clip(split: str, index: int, spec: SyntheticSpec) -> tuple[Generator, list[Event], list[dict]]:
    """Events and questions of clip `index`, and the random stream from which its pixels are drawn next.

    spec: without cells, as `of_clip` returns it.
    """
    rng = np.random.default_rng((spec.seed, SPLITS.index(split), index))
    events = draw_events(spec, rng)
    pool = ask_all(events, spec, rng)
    wanted = spec.questions_per_clip if split == "train" else spec.test_questions_per_clip
    return rng, events, [pool[i] for i in rng.permutation(len(pool))[:wanted]]


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
