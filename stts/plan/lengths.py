"""The lengths of a data set, as scripts/check_data.py wrote them: what an epoch is made of."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from ..pruning.config import STTSConfig
from .models import TEXT, Model, Shape


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

    def mean(self, model: Model, stts: STTSConfig, logits: int | None) -> float:
        """Operations of an average example, as a share of those of the longest."""
        cost = {
            shape: model.arithmetic(shape, stts, logits).with_backward().total
            for shape in {*self.counts, self.longest}
        }
        total = sum(cost[shape] * number for shape, number in self.counts.items())
        return total / self.number / cost[self.longest]


def read_lengths(path: str, model: Model, size: tuple[int, int]) -> Examples:
    """Of the file that check.lengths names. Examples without a video count as ones of a single frame.

    size: height and width of the videos in pixels, where frames keep their shape. Raises ValueError for a file that
    is none.
    """
    try:
        found = json.loads(Path(path).read_text())
        pairs = list(zip(found["frames"], found["tokens"], strict=True))
        if not pairs:
            raise ValueError("it lists no example")
        counts = Counter(_shape(model, int(frames), int(tokens), size) for frames, tokens in pairs)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"plan.lengths={path}: {error}; write it with scripts/check_data.py check.lengths="
        ) from error
    return Examples(counts, max(counts, key=lambda shape: shape.tokens()))


def _shape(model: Model, frames: int, tokens: int, size: tuple[int, int]) -> Shape:
    """Of so many frames and tokens before pruning; of frames in their own shape, which is not told, tokens tell how
    large they were."""
    shape = model.shape(max(frames, 1), size)
    if frames and model.host.frame_grid is None:
        windows = max((tokens - TEXT) / shape.units - shape.text_per_unit, 1)
        rows = max(round(math.sqrt(windows * size[0] / size[1])), 1)
        cols = max(round(windows / rows), 1)
        shape = replace(shape, windows=rows * cols, grid=(rows * model.host.unit, cols * model.host.unit))
    text = tokens - shape.tokens() + shape.text
    return replace(shape, text=max(8 * round(text / 8), 8))  # of like lengths one


def alike(shape: Shape, number: int) -> Examples:
    """So many examples of one shape."""
    return Examples(Counter({replace(shape, text=TEXT): number}), shape)
