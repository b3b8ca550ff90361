"""The grid of a sweep, and the settings of its cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from ...pruning.config import STTSConfig
from ...rules import at_least, check_rules


@dataclass(frozen=True)
class SweepConfig:
    """The grid. Raises ValueError, naming the key, for a value out of range."""

    frames: tuple[int, ...]
    prune_ratio: tuple[float, ...]
    policy: tuple[str, ...] = ("scorer",)
    cost_videos: int = field(default=4, metadata=at_least(1))
    """Videos that seconds are measured on."""
    cost_repeats: int = field(default=5, metadata=at_least(1))
    """Measured passes over each."""
    tolerance: float = field(default=0.05, metadata=at_least(0))
    """Costs count as the same up to this share more."""

    def __post_init__(self) -> None:
        for key in ("frames", "prune_ratio", "policy"):
            values = getattr(self, key)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{key} is {list(values)}, must be a list without repetitions")
        for frames in self.frames:
            if type(frames) is not int or frames < 1:
                raise ValueError(f"frames is {frames!r}, must be a whole number, at least 1")
        for policy, ratio in product(self.policy, self.prune_ratio):
            STTSConfig(policy=policy, prune_ratio=ratio)
        check_rules(self, "sweep")

    def cells(self) -> Iterator[tuple[int, float, str]]:
        """(frames, prune ratio, policy) of each; whole videos, which no policy touches, once a frame count."""
        for frames in self.frames:
            for ratio in self.prune_ratio:
                yield from ((frames, ratio, policy) for policy in (self.policy if ratio else ("none",)))


def cell_config(config: Mapping[str, Any], frames: int, ratio: float, policy: str) -> dict[str, Any]:
    """The settings of one cell, as scripts/eval.py takes them, with a folder of its own."""
    name = f"f{frames}-{policy}-{ratio:g}"
    chosen = {"frames": frames, "prune_ratio": ratio, "policy": policy}
    return {**config, **chosen, "output_dir": str(Path(config["output_dir"], name))}


def made_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a cell that STTSConfig takes."""
    return {key: config[key] for key in ("prune_ratio", "policy")} | config["stts"]
