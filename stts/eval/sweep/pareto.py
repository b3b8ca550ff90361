"""Accuracy against cost: which points nothing beats, and where more frames at a higher ratio are the better buy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..statistics import difference_interval, share_interval

COSTS = ("seconds", "visual_tokens")
"""What accuracy is held against."""


def name_cell(frames: int, prune_ratio: float, policy: str) -> str:
    return f"{frames} frames, {f'{policy} {prune_ratio:.0%}' if prune_ratio else 'whole'}"


@dataclass(frozen=True)
class Point:
    """One cell of a sweep: a policy at some frames and prune ratio, what it answered and what that cost."""

    policy: str
    prune_ratio: float
    frames: int
    correct: tuple[bool, ...]
    """Of each question, in the same order in every cell."""
    clusters: tuple[str, ...]
    """The video of each question."""
    seconds: float
    visual_tokens: float

    @property
    def name(self) -> str:
        return name_cell(self.frames, self.prune_ratio, self.policy)

    @property
    def accuracy(self) -> float:
        return sum(self.correct) / len(self.correct)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy."""
        return share_interval(self.correct, self.clusters)


@dataclass(frozen=True)
class Trade:
    """More frames, pruned harder, that answer better than fewer frames at no higher cost."""

    more: Point
    fewer: Point
    by: str
    """The cost that is equal or lower: "seconds" or "visual_tokens"."""
    gain: float
    """Accuracy of more less that of fewer."""
    interval: tuple[float, float]
    """95 % interval of the gain, paired over the same questions."""
    cost_ratio: float
    """Cost of more over that of fewer."""

    @property
    def clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.interval[0] > 0

    def to_dict(self) -> dict[str, Any]:
        return {
            "more": self.more.name,
            "fewer": self.fewer.name,
            "by": self.by,
            "gain": self.gain,
            "interval": list(self.interval),
            "cost_ratio": self.cost_ratio,
            "clear": self.clear,
        }

    def __str__(self) -> str:
        low, high = (f"{100 * value:+.1f}" for value in self.interval)
        cost = f"{self.cost_ratio:.2f} x the {self.by.replace('_', ' ')}"
        gain = f"{100 * self.gain:+.1f} points [{low}, {high}]"
        return f"{self.more.name} beats {self.fewer.name}: {gain} at {cost}"


def frontier(points: Sequence[Point], cost: Callable[[Point], float]) -> list[Point]:
    """The points that no other beats, by rising cost: none answers as well for less, none better for the same."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (cost(point), -point.accuracy)):
        if not best or point.accuracy > best[-1].accuracy:
            best.append(point)
    return best


def find_trades(points: Sequence[Point], by: str, tolerance: float = 0.05) -> list[Trade]:
    """Every pair in which more frames at a higher prune ratio answer better at the same cost, by falling gain.

    by: "seconds" or "visual_tokens"; tolerance: costs count as the same up to this share more. Both of a pair are
    of one policy, or the fewer frames are whole.
    """
    trades = []
    for fewer in points:
        for more in points:
            if more.frames <= fewer.frames or more.prune_ratio <= fewer.prune_ratio:
                continue
            if fewer.policy not in (more.policy, "none"):
                continue
            cost_ratio = getattr(more, by) / getattr(fewer, by)
            if cost_ratio <= 1 + tolerance and more.accuracy > fewer.accuracy:
                gains = np.subtract(more.correct, fewer.correct, dtype=float)
                interval = difference_interval(gains, more.clusters)
                gain = more.accuracy - fewer.accuracy
                trades.append(Trade(more, fewer, by, gain, interval, cost_ratio))
    return sorted(trades, key=lambda trade: -trade.gain)


def frontier_by(points: Sequence[Point], by: str) -> list[Point]:
    return frontier(points, lambda point: getattr(point, by))
