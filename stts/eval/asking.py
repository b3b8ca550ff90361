"""Putting questions to a model: each video encoded once, its questions by the logits of the letters or by replies."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.answers import letter_token_ids, parse_letter
from ..data.feed.collator import Collator
from ..data.processors.base import Processor
from ..pruning.layout import BatchLayout
from ..pruning.visual_tokens import VisualTokens
from .config import EvalConfig
from .tasks.question import Question


@dataclass(frozen=True)
class Item:
    """A question ready to be asked."""

    question: Question
    prompt: dict[str, Tensor]
    """The processor's tensors of its text, (L,) each, with a placeholder for every window of the video."""
    visual: VisualTokens
    """Of the video; shared with other questions about it."""
    frames: int
    """How many frames of the video are shown; a model may make fewer units of time of them."""
    evidence: np.ndarray
    """(E, T, W) bool, True where a piece of the E that the answer rests on can be seen."""
    span: float | None = None
    """Seconds from the first frame that is shown to the last."""
    mask: Mapping[str, Any] | None = None
    """What was kept of the video, as masks.pack_mask writes it, where it is to be recorded."""

    @property
    def num_tokens(self) -> int:
        """Tokens that survive pruning."""
        return len(self.prompt["input_ids"]) - self.visual.keep.numel() + len(self.visual.features)


@dataclass(frozen=True)
class Reply:
    """What the model made of one question."""

    predicted: int | None
    said: dict[str, Any]
    """What that was read from: the reply's text, or the logits of the letters."""


Ask = Callable[[Sequence[Item]], list[Reply]]
"""Some questions, which go through the model together -> a reply to each."""


def make_ask(
    model: nn.Module, processor: Processor, questions: Sequence[Question], config: EvalConfig
) -> Ask:
    """by_logits or by_generation, as the config says, ready for any of these questions."""
    if config.mode == "generate":
        return partial(by_generation, model, processor, config.max_new_tokens)
    num_options = max(len(question.options) for question in questions)
    return partial(by_logits, model, processor.pad_token_id, letter_token_ids(processor, num_options))


def encode(model: nn.Module, video: dict[str, Tensor], seed: int) -> VisualTokens:
    """The visual tokens of one video.

    video: the processor's tensors of its frames, and window_scores (T, W); seed: of the random policy, whose draws
    then belong to the video alone.
    """
    torch.manual_seed(seed)
    on_host = ("video_grids", "video_grid_thw")  # a handful of sizes, which the host reads
    return model.encode_videos(**{k: v if k in on_host else _to(model, v) for k, v in video.items()})


def seed_of(question: Question, seed: int) -> int:
    """A number for the clip that a question is about. It does not depend on where the data lie."""
    name = repr((seed, question.video.name, *question.clip[1:]))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6])


def by_logits(
    model: nn.Module, pad_token_id: int, letters: Sequence[int], items: Sequence[Item]
) -> list[Reply]:
    """Choose the option whose letter is the likeliest next token.

    letters: the tokens of A, B, ... Only the logits at the ends of the prompts are computed; where these are
    once pruning is done follows from the sizes alone. Raises ValueError for logits that are not numbers.
    """
    ends = torch.tensor([item.num_tokens for item in items]) - 1
    columns, column_of_row = ends.unique(return_inverse=True)
    output = model(**_inputs(model, pad_token_id, items), logits_to_keep=_to(model, columns))
    logits = output.logits[torch.arange(len(ends)), column_of_row]  # (B, V)
    scores = logits[:, list(letters)].float().tolist()
    return [
        _likeliest(item.question, row[: len(item.question.options)])
        for item, row in zip(items, scores, strict=True)
    ]


def _likeliest(question: Question, scores: list[float]) -> Reply:
    if not all(map(isfinite, scores)):
        raise ValueError(
            f"the model gives question {question.id!r} the logits {scores}: its weights are damaged, or too "
            "large for their type: try model.dtype=float32"
        )
    return Reply(scores.index(max(scores)), {"logits": [round(score, 4) for score in scores]})


def by_generation(
    model: nn.Module, processor: Processor, max_new_tokens: int, items: Sequence[Item]
) -> list[Reply]:
    """Let the model reply, greedily, and read the letter from the reply."""
    inputs = _inputs(model, processor.pad_token_id, items)
    tokens = model.generate(
        **inputs, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=processor.pad_token_id
    )
    new = tokens[:, inputs["input_ids"].shape[1] :].tolist()
    texts = processor.tokenizer.batch_decode(new, skip_special_tokens=True)
    return [
        Reply(parse_letter(text, item.question.options), {"reply": text})
        for text, item in zip(texts, items, strict=True)
    ]


def _inputs(model: nn.Module, pad_token_id: int, items: Sequence[Item]) -> dict[str, Any]:
    """What forward and generate take: a question a row, each with its video."""
    batch = Collator(pad_token_id)([item.prompt for item in items])
    texts = {key: _to(model, batch[key]) for key in ("input_ids", "attention_mask", "mm_token_type_ids")}
    visual = VisualTokens.of_rows([item.visual for item in items])
    layout = BatchLayout(
        frames_per_video=tuple(len(item.visual.keep) for item in items),
        lengths=tuple(len(item.prompt["input_ids"]) for item in items),
        video_rows=tuple(range(len(items))),
        grids=visual.grids,
    )
    return texts | {"layout": layout, "visual": visual}


def _to(model: nn.Module, tensor: Tensor) -> Tensor:
    return tensor.to(device_of(model), non_blocking=True)


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
