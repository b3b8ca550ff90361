"""Generated clips in memory, decoded once, and conversations about them in ever new orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from torch import Tensor

from ..data.processors.base import Example, Processor, evidence_in
from ..data.rows import resolve_video
from ..data.video.read import Clip, read_video
from ..files.jsonl import read_jsonl
from .word_losses import time_labels, window_labels

MAX_FRAMES = 128
Turn = tuple[str, str]
"""What the user says and what the assistant answers."""


@dataclass(frozen=True)
class Scene:
    """One clip of T units of time, what it shows and what is asked about it."""

    video: Example
    """What the processor makes of the clip."""
    clip: Clip
    """Its times and the shape of its frames, for prompts."""
    events: Sequence[dict[str, Any]]
    shown: dict[str, Tensor]
    """What each window shows, as word_losses.window_labels says it."""
    times: dict[str, Tensor]
    """When that is, as word_losses.time_labels says it."""
    event_units: tuple[int, ...]
    """Those that show an event."""
    turns: Sequence[Turn]


def load_scenes(annotations: Path, processor: Processor) -> list[Scene]:
    """Decode and process every clip of a generated training file."""
    return [_scene(row, annotations.parent, processor) for row in read_jsonl(annotations)]


def _scene(row: dict[str, Any], root: Path, processor: Processor) -> Scene:
    clip = read_video(resolve_video(root, row["video"]), MAX_FRAMES, size=processor.image_size)
    texts = [message["content"] for message in row["messages"]]
    marked = evidence_in(processor, row["events"], clip)
    return Scene(
        video=processor.video_tensors(clip),
        clip=Clip(np.broadcast_to(np.uint8(0), clip.frames.shape), clip.timestamps),
        events=row["events"],
        shown=window_labels(row["events"], marked),
        times=time_labels(len(clip.timestamps), processor.unit_times(clip.timestamps), row["events"], marked),
        event_units=tuple(np.unique(marked.nonzero()[1]).tolist()),
        turns=list(zip(texts[::2], texts[1::2], strict=True)),
    )


def without_options(turn: Turn) -> Turn:
    """The same question without lettered options, answered by the text of the right one."""
    question, *lines = turn[0].split("\n")
    option = next(line for line in lines if line.startswith(f"{turn[1]}. "))
    return question, option.removeprefix(f"{turn[1]}. ")


def conversation(
    scene: Scene, processor: Processor, rng: Generator, direct_share: float = 0.0
) -> dict[str, Tensor]:
    """All questions about a scene, in random order, a share of them without options: the processor's text_tensors."""
    turns = [scene.turns[i] for i in rng.permutation(len(scene.turns))]
    turns = [without_options(turn) if rng.random() < direct_share else turn for turn in turns]
    return processor.text_tensors(as_messages(turns), scene.clip)


def as_messages(turns: Sequence[Turn]) -> list[dict[str, str]]:
    """Turns as a processor takes them."""
    roles = ("user", "assistant")
    return [{"role": role, "content": text} for turn in turns for role, text in zip(roles, turn, strict=True)]
