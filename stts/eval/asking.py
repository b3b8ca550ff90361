"""Putting a batch of questions to a model: by the logits of the option letters, or by letting it reply."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from ..data.processing import VideoProcessor
from .answers import letter_token_ids, parse_letter
from .config import EvalConfig
from .tasks.base import Question


@dataclass(frozen=True)
class Reply:
    """What the model made of one question."""

    predicted: int | None
    said: dict[str, Any]
    """What that was read from: the reply's text, or the logits of the letters."""
    keep: Tensor | None
    """(T, W) bool, True = kept; None: nothing was pruned."""


Ask = Callable[[dict[str, Any], Sequence[Question]], list[Reply]]
"""A batch, as the Collator makes it with one question a row, and its questions -> a reply to each."""


def make_ask(
    model: nn.Module, processor: VideoProcessor, questions: Sequence[Question], config: EvalConfig
) -> Ask:
    """by_logits or by_generation, as the config says, ready for any batch of these questions."""
    if config.mode == "generate":
        return partial(by_generation, model, processor, config.max_new_tokens)
    num_options = max(len(question.options) for question in questions)
    return partial(by_logits, model, letter_token_ids(processor, num_options))


def by_logits(
    model: nn.Module, letters: Sequence[int], batch: dict[str, Any], questions: Sequence[Question]
) -> list[Reply]:
    """Choose the option whose letter is the likeliest next token.

    letters: the tokens of A, B, ... Only the logits at the ends of the prompts are computed; where these are
    once pruning is done follows from the sizes alone. Raises ValueError for logits that are not numbers.
    """
    layout = batch["layout"]
    ends = torch.tensor(layout.kept_lengths(_num_windows(batch), model.stts.prune_ratio)) - 1
    columns, column_of_row = ends.unique(return_inverse=True)
    output = model(**_inputs(batch, model), logits_to_keep=columns.to(device_of(model)))
    logits = output.logits[torch.arange(len(ends)), column_of_row]  # (B, V)
    scores = logits[:, list(letters)].float().tolist()
    keeps = _split(output.keep_windows, layout.frames_per_video)
    return [
        _likeliest(question, row[: len(question.options)], keep)
        for question, row, keep in zip(questions, scores, keeps, strict=True)
    ]


def _likeliest(question: Question, scores: list[float], keep: Tensor | None) -> Reply:
    if not all(map(isfinite, scores)):
        raise ValueError(
            f"the model gives question {question.id!r} the logits {scores}: its weights are damaged, or too "
            "large for their type: try model.dtype=float32"
        )
    return Reply(scores.index(max(scores)), {"logits": [round(score, 4) for score in scores]}, keep)


def by_generation(
    model: nn.Module,
    processor: VideoProcessor,
    max_new_tokens: int,
    batch: dict[str, Any],
    questions: Sequence[Question],
) -> list[Reply]:
    """Let the model reply, greedily, and read the letter from the reply."""
    tokens = model.generate(
        **_inputs(batch, model),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=processor.pad_token_id,
    )
    new = tokens[:, batch["input_ids"].shape[1] :].tolist()
    texts = processor.tokenizer.batch_decode(new, skip_special_tokens=True)
    keeps = _split(model.last_keep_windows, batch["layout"].frames_per_video)
    return [
        Reply(parse_letter(text, question.options), {"reply": text}, keep)
        for text, question, keep in zip(texts, questions, keeps, strict=True)
    ]


def _inputs(batch: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """What the model takes of a batch, on its device."""
    tensors = {key: value for key, value in batch.items() if isinstance(value, Tensor) and key != "labels"}
    moved = {key: value.to(device_of(model), non_blocking=True) for key, value in tensors.items()}
    return moved | {"layout": batch["layout"]}


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _num_windows(batch: dict[str, Any]) -> int:
    return batch["video_grids"][0, 1:].prod().item()


def _split(keep: Tensor | None, frames_per_video: Sequence[int]) -> Sequence[Tensor | None]:
    return [None] * len(frames_per_video) if keep is None else keep.cpu().split(list(frames_per_video))
