"""Generated clips in memory, decoded once, and conversations about them in ever new orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from numpy.random import Generator
from torch import Tensor

from ..data.processors.molmo2 import IGNORE, MULTIMODAL_TOKENS, VideoProcessor
from ..data.rows import resolve_video
from ..data.video.read import read_video
from ..files.jsonl import read_jsonl
from .word_losses import window_labels

MAX_FRAMES = 128
Turn = tuple[str, str]
"""What the user says and what the assistant answers."""


@dataclass(frozen=True)
class Scene:
    """One clip, what it shows and what is asked about it."""

    patches: Tensor
    """(T, N, patch pixels) uint8."""
    windows: Tensor
    """(W, p * p) patches of each window of a frame."""
    timestamps: tuple[float, ...]
    events: Sequence[dict[str, Any]]
    shown: dict[str, Tensor]
    """What each window shows, as word_losses.window_labels says it."""
    event_frames: tuple[int, ...]
    prompt: Tensor
    """Tokens from the start to the end of the video."""
    turns: Sequence[Turn]


def load_scenes(annotations: Path, processor: VideoProcessor) -> list[Scene]:
    """Decode and process every clip of a generated training file."""
    return [_scene(row, annotations.parent, processor) for row in read_jsonl(annotations)]


def _scene(row: dict[str, Any], root: Path, processor: VideoProcessor) -> Scene:
    clip = read_video(resolve_video(root, row["video"]), MAX_FRAMES, size=processor.image_size)
    texts = [message["content"] for message in row["messages"]]
    turns = list(zip(texts[::2], texts[1::2], strict=True))
    example = processor(row["messages"][:2], clip)
    _, rows, cols = example["video_grids"][0].tolist()
    shown = window_labels(row["events"], clip.timestamps, rows, cols)
    in_frame = (shown["colour"] < shown["colour"].max()).any(1)
    return Scene(
        patches=example["pixel_values_videos"],
        windows=example["video_token_pooling"][: rows * cols],
        timestamps=tuple(clip.timestamps.tolist()),
        events=row["events"],
        shown=shown,
        event_frames=tuple(in_frame.nonzero().flatten().tolist()),
        prompt=example["input_ids"][: 1 + int(example["mm_token_type_ids"].nonzero().max())],
        turns=turns,
    )


def without_options(turn: Turn) -> Turn:
    """The same question without lettered options, answered by the text of the right one."""
    question, *lines = turn[0].split("\n")
    option = next(line for line in lines if line.startswith(f"{turn[1]}. "))
    return question, option.removeprefix(f"{turn[1]}. ")


class Conversation:
    """Writes examples as VideoProcessor does, but puts them together from turns it has processed before."""

    def __init__(self, processor: VideoProcessor) -> None:
        self.processor = processor
        tokens = processor.tokenizer.convert_tokens_to_ids(list(MULTIMODAL_TOKENS))
        self._multimodal = torch.tensor(tokens)
        self._break = torch.tensor(processor.tokenizer("\n", add_special_tokens=False).input_ids)
        self._tokens = cache(self._turn_tokens)  # a few hundred different turns

    def __call__(self, scene: Scene, rng: Generator, direct_share: float = 0.0) -> dict[str, Tensor]:
        """All questions about a scene, in random order: input_ids, labels, mm_token_type_ids, each (L,)."""
        turns = [scene.turns[i] for i in rng.permutation(len(scene.turns))]
        turns = [without_options(turn) if rng.random() < direct_share else turn for turn in turns]
        return self.write(scene, turns)

    def write(self, scene: Scene, turns: Sequence[Turn]) -> dict[str, Tensor]:
        """What the processor makes of these turns about the scene's clip, but for the pixels."""
        ids, labels = [scene.prompt], [torch.full_like(scene.prompt, IGNORE)]
        for turn in turns:
            if len(ids) > 1:
                ids.append(self._break)
                labels.append(torch.full_like(self._break, IGNORE))
            for whole, part in zip((ids, labels), self._tokens(turn), strict=True):
                whole.append(part)
        ids = torch.cat(ids)
        types = torch.zeros_like(ids)
        types[: len(scene.prompt)] = torch.isin(scene.prompt, self._multimodal).long()
        return {"input_ids": ids, "labels": torch.cat(labels), "mm_token_type_ids": types}

    def _turn_tokens(self, turn: Turn) -> tuple[Tensor, Tensor]:
        roles = ("user", "assistant")
        messages = [{"role": role, "content": text} for role, text in zip(roles, turn, strict=True)]
        example = self.processor(messages)
        return example["input_ids"][1:], example["labels"][1:]  # without the token that begins every text
