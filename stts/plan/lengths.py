"""The lengths of a data set, as scripts/check_data.py wrote them: what an epoch is made of."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedConfig

from .models import FAMILIES, TEXT, Shape


@dataclass(frozen=True)
class Examples:
    """How many videos of which lengths."""

    counts: Counter[Shape]
    longest: Shape

    @property
    def number(self) -> int:
        return sum(self.counts.values())

    @property
    def frames(self) -> int:
        """Units of all videos together."""
        return sum(shape.units * number for shape, number in self.counts.items())

    def mean(self, config: PreTrainedConfig, ratio: float, logits: int | None) -> float:
        """Operations of an average example, as a share of those of the longest."""
        arithmetic = FAMILIES[config.model_type].arithmetic
        cost = {
            shape: arithmetic(config, shape, ratio, logits).total for shape in {*self.counts, self.longest}
        }
        total = sum(cost[shape] * number for shape, number in self.counts.items())
        return total / self.number / cost[self.longest]


def read_lengths(path: str, config: PreTrainedConfig, frames: int) -> Examples:
    """Of the file that check.lengths names. Examples without a video count as ones of a single frame.

    frames: at most so many of each. Raises ValueError for a file that is none.
    """
    family = FAMILIES[config.model_type]
    try:
        found = json.loads(Path(path).read_text())
        pairs = list(zip(found["frames"], found["tokens"], strict=True))
        if not pairs:
            raise ValueError("it lists no example")
        counts = Counter(_shape(family.shape(config, 1), units, tokens) for units, tokens in pairs)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"plan.lengths={path}: {error}; write it with scripts/check_data.py check.lengths="
        ) from error
    return Examples(counts, max(counts, key=lambda shape: shape.tokens()))


def _shape(one: Shape, units: int, tokens: int) -> Shape:
    units = max(int(units), 1)
    text = int(tokens) - units * (one.windows + one.text_per_unit)
    return replace(one, units=units, text=max(8 * round(text / 8), 8))  # of like lengths one


def alike(shape: Shape, number: int) -> Examples:
    """So many examples of one shape."""
    return Examples(Counter({replace(shape, text=TEXT): number}), shape)
