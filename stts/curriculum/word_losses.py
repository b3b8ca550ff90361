"""What words mean: extra losses that tie the words of generated clips to what the windows show.

Answers alone do not teach a small model to see within minutes: nothing tells it which of a clip's hundred
visual tokens an answer was about. The generator recorded that, and three losses say it:

- a visual token lies near the words for the shape and the colour it shows (`window_labels`, `word_loss`),
- it knows the time written in front of its unit, a frame or two (`time_labels`),
- a word in a question that names an event finds out the rest about it (`name_labels`).

A label is the number of a word among those of its kind, the number of words for "nothing", or IGNORE.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from ..data.processors.base import IGNORE
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


def window_labels(events: Sequence[Event], marked: np.ndarray) -> dict[str, Tensor]:
    """Kind (not time) -> (T, W) int64: the word for what each window shows, "nothing" where it shows no event, IGNORE
    where it shows several. marked: (E, T, W) bool, where each event can be seen."""
    labels = {kind: torch.full(marked.shape[1:], len(words)) for kind, words in VALUES.items()}
    for event, shown in zip(events, torch.from_numpy(marked), strict=True):
        for kind, words in VALUES.items():
            labels[kind][shown] = words.index(event[kind])
    several = torch.from_numpy(marked.sum(0) > 1)
    return {kind: label.masked_fill(several, IGNORE) for kind, label in labels.items()}


def time_labels(
    num_frames: int, written: Sequence[float], events: Sequence[Event], marked: np.ndarray
) -> dict[str, Tensor]:
    """When each window is, (T, W) int64: its third of the clip ("time"), and the two digits that the prompt says.

    written: (T,) seconds in front of each unit of the clip; marked: (E, T, W) bool, where each event can be seen. The
    third of a unit whose frames lie in two is IGNORE, but where a window shows an event it is that of the event.
    """
    units, windows = marked.shape[1:]
    together = -(-num_frames // units)  # frames of a unit, of which the last may have fewer
    slots = torch.arange(units * together).clamp(max=num_frames - 1).tolist()
    thirds = torch.tensor([TIMES.index(third_of(slot, num_frames)) for slot in slots]).view(units, together)
    agreed = (thirds == thirds[:, :1]).all(1)
    labels = {"time": thirds[:, 0].where(agreed, torch.tensor(IGNORE))}
    for place, name in enumerate(("seconds", "tenths")):
        labels[name] = torch.tensor([int(f"{time:.1f}".split(".")[place][-1]) for time in written])
    labels = {name: label[:, None].repeat(1, windows) for name, label in labels.items()}
    for event, shown in zip(events, torch.from_numpy(marked), strict=True):
        if (time := describe_event(event, num_frames)["time"]) != IGNORE:
            labels["time"][shown] = time
    return labels


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
