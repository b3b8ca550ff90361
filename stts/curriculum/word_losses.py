"""What words mean: extra losses that tie the words of generated clips to what the windows show.

Answers alone do not teach a small model to see within minutes: nothing tells it which of a clip's hundred
visual tokens an answer was about. The generator recorded that, and three losses say it:

- a visual token lies near the words for the shape and the colour it shows (`window_labels`, `word_loss`),
- it knows the time written in front of its frame (`time_labels`),
- a word in a question that names an event finds out the rest about it (`name_labels`).

A label is the number of a word among those of its kind, the number of words for "nothing", or IGNORE.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from ..data.evidence import evidence_windows
from ..data.processors.molmo2 import IGNORE
from ..data.synthetic.questions import VALUES, third_of
from ..data.synthetic.spec import SLOT_SECONDS, TIMES

Event = Mapping[str, Any]
"""{"colour", "shape", "start", "end", "box"} of a generated clip's row."""

KINDS: dict[str, tuple[str, ...]] = {**VALUES, "time": TIMES}
"""What there is to know about an event, and the words for it."""
DIGITS = tuple("0123456789")
NOTHING_WEIGHT = 0.3
"""Weight of names that name nothing: most of them do, and are easy."""


@dataclass(frozen=True)
class WordIds:
    """Tokens of the words inside a sentence, thus with a space in front, and of single digits."""

    kinds: Mapping[str, Tensor]
    digits: Tensor
    first: int
    last: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> WordIds:
        """Raises ValueError for a word that is not one token."""
        kinds = {kind: _tokens(tokenizer, [f" {w}" for w in words]) for kind, words in KINDS.items()}
        first, last = _tokens(tokenizer, [" first", " last"]).tolist()
        return cls(kinds, _tokens(tokenizer, DIGITS), first, last)


def _tokens(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> Tensor:
    ids = [tokenizer(word, add_special_tokens=False).input_ids for word in words]
    if split := [word for word, found in zip(words, ids, strict=True) if len(found) != 1]:
        raise ValueError(f"{split[0]!r} must be one token of the tokenizer; use the tiny model's")
    return torch.tensor(ids)[:, 0]


def describe_event(event: Event, num_slots: int) -> dict[str, int]:
    """Kind -> number of the word that is true of an event in a clip of so many slots; IGNORE: none is."""
    slot = math.ceil(event["start"] / SLOT_SECONDS)
    brief = event["end"] - event["start"] <= SLOT_SECONDS
    labels = {kind: words.index(event[kind]) for kind, words in VALUES.items()}
    return labels | {"time": TIMES.index(third_of(slot, num_slots)) if brief else IGNORE}


def window_labels(
    events: Sequence[Event], timestamps: Sequence[float], rows: int, cols: int
) -> dict[str, Tensor]:
    """Kind (not time) -> (T, W) int64: the word for what each window shows, "nothing" where it shows no event."""
    labels = {kind: torch.full((len(timestamps), rows * cols), len(words)) for kind, words in VALUES.items()}
    for event in events:
        shown = torch.from_numpy(evidence_windows([event], timestamps, rows, cols))
        for kind, number in describe_event(event, len(timestamps)).items():
            if kind in labels:
                labels[kind][shown] = number
    return labels


def time_labels(timestamps: Sequence[float]) -> dict[str, Tensor]:
    """What the time in front of each frame says: its third of the clip and its two digits, each (T,) int64."""
    tenths = torch.tensor([round(10 * t) for t in timestamps])
    slots = torch.arange(len(timestamps)).sub(1).clamp(0)
    third = slots * len(TIMES) // (len(timestamps) - 1)
    return {"time": third, "seconds": tenths // 10 % 10, "tenths": tenths % 10}


def name_labels(
    input_ids: Tensor, events: Sequence[Event], num_slots: int, ids: WordIds
) -> dict[str, Tensor]:
    """Kind -> (L,) int64: what each token that names an event does not say about it itself.

    Names are colours, shapes, "first" and "last". A name of no event is labelled "nothing", one of several
    events IGNORE, like every other token. events: in the order they are shown.
    """
    labels = {kind: torch.full_like(input_ids, IGNORE) for kind in KINDS}
    known = [describe_event(event, num_slots) for event in events]
    names = [(ids.first, known[:1], ""), (ids.last, known[-1:], "")]
    for kind in VALUES:
        for number, token in enumerate(ids.kinds[kind].tolist()):
            names.append((token, [event for event in known if event[kind] == number], kind))
    for token, named, own_kind in names:
        if len(named) < 2:
            for kind in KINDS.keys() - {own_kind}:
                labels[kind][input_ids == token] = named[0][kind] if named else len(KINDS[kind])
    return labels


def word_loss(
    features: Tensor, words: Tensor, labels: Tensor, nothing_weight: float = 1.0
) -> tuple[Tensor, Tensor]:
    """How badly features point at their words, and the share of those with a word that point at the right one.

    features: (K, D); words: (V, D) embeddings; labels: (K,). The logit of "nothing" is 0, those of the words
    are dot products. Cross-entropy, averaged over features with a word and over those without by themselves.
    """
    known = labels != IGNORE
    logits = functional.pad(features[known] @ words.T, (0, 1))
    labels = labels[known]
    losses = functional.cross_entropy(logits, labels, reduction="none")
    shown = labels < len(words)
    loss = _mean(losses[shown]) + nothing_weight * _mean(losses[~shown])
    return loss, _mean((logits.argmax(-1) == labels)[shown].float())


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(1, len(values))
