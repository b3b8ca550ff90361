"""Generated video-QA clips: real H.264 files whose questions turn on a few windows of a few frames.

**The clip.** Still grey blocks with fine texture, sensor noise that never repeats, and grey discs that move
in every frame and that no question asks about. In front of them 2 to 4 *events*: a coloured shape shown for
one slot of half a second, never in the first slot. Colours within a clip differ, shapes may repeat. A shape
lies inside one cell of a `grid` x `grid` raster, so that by default its evidence is one window of the tiny
model (grid=1 puts it anywhere).

**Harder clips.** `lamps` flicker, `pan` moves the whole background, `decoys` flash like events and `passers` walk
by, both in colours nobody asks about: novelty without relevance. Further events are there all the time (`still`),
only in the first slot (`opening`) or come slowly and stay (`fading`): relevance without novelty. `cells` takes
clips of several kinds in turns, from the fixed grid of `kinds.py`.

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
from pathlib import Path

import numpy as np
from numpy.random import Generator

from ...files.make_once import make_once
from ..rows import row_messages
from ..video import encode
from ..video.read import write_video
from .events import Event, draw_events
from .questions import ask_all
from .render import render_clip
from .spec import COLOURS, VERSION, SyntheticSpec

SPLITS = ("train", "test")
ENCODING = {"qp": 20, "options": {"preset": "superfast"}}
"""Colours and shapes come back as drawn, to a few grey levels; twice as fast as x264's default."""


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
