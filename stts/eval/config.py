"""Settings of an evaluation, apart from runner.py: mistakes in them are found before torch is loaded."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.video.config import VideoConfig
from ..hosts.folders import says_trained
from ..pruning.config import STTSConfig

logger = logging.getLogger(__name__)

MODES = ("logits", "generate")
BAD_VIDEOS = ("stop", "wrong")


@dataclass(frozen=True)
class EvalConfig:
    """How to ask a model the questions of a benchmark.

    Raises ValueError, naming the key, for a value out of range.
    """

    benchmark: str
    """Name that results are filed under."""
    video: VideoConfig
    """Which frames of each clip are shown."""
    mode: str = "logits"
    """"logits": compare the option letters as next token; "generate": read the letter from a reply."""
    batch_size: int = 16
    """At most so many questions in one forward pass, and so many videos decoded for it."""
    max_tokens: int = 16384
    """At most so many tokens in one forward pass, after pruning, padding included; a longer question goes alone."""
    workers: int = 2
    """Threads that decode videos ahead."""
    limit: int | None = None
    """Only the first so many questions. None: all."""
    max_new_tokens: int = 12
    """Length of a generated reply."""
    bad_videos: str = "stop"
    """A video that is missing or cannot be decoded, a question that cannot be asked (a special token in its text, a
    damaged subtitle file): "stop" the run, or count the video's questions, or that question, as "wrong"."""
    masks: bool = False
    """Record with each prediction which windows of its video were kept, a bit a window, for pictures in a report."""
    seed: int = 0
    """Of the random policy: of each video the same windows are drawn again."""
    progress: bool = True
    """Show a progress bar."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What else belongs to the settings of a run, e.g. the model's name; compared when it is restarted."""

    def __post_init__(self) -> None:
        _check(self.batch_size >= 1, "eval.batch_size", self.batch_size, "must be at least 1")
        _check(self.max_tokens >= 1, "eval.max_tokens", self.max_tokens, "must be at least 1")
        _check(self.workers >= 1, "eval.workers", self.workers, "must be at least 1")
        _check(self.limit is None or self.limit >= 1, "eval.limit", self.limit, "must be at least 1 or null")
        _check(self.max_new_tokens >= 1, "eval.max_new_tokens", self.max_new_tokens, "must be at least 1")
        _check(self.seed >= 0, "seed", self.seed, "must be 0 or more")
        _check(self.mode in MODES, "eval.mode", self.mode, f"must be {' or '.join(MODES)}")
        policies = " or ".join(BAD_VIDEOS)
        _check(self.bad_videos in BAD_VIDEOS, "eval.bad_videos", self.bad_videos, f"must be {policies}")

    def compared(self) -> dict[str, Any]:
        """The settings that predictions depend on: a run goes on in a folder only with the same."""
        names = ["mode", "seed", "bad_videos"]
        if self.mode == "generate":
            names.append("max_new_tokens")
        asked = {name: getattr(self, name) for name in names}
        return {"benchmark": self.benchmark, **dataclasses.asdict(self.video), **asked, **self.notes}


def warn_if_untrained(stts: STTSConfig, folder: Path) -> None:
    """Say so when windows are to be dropped by the scores of a model that never learned to score."""
    if stts.policy == "scorer" and stts.prune_ratio and not says_trained(folder):
        logger.warning("%s has no trained scorer: a random one decides which windows are dropped", folder)


def _check(ok: bool, name: str, value: object, rule: str) -> None:
    if not ok:
        raise ValueError(f"{name} is {value!r}, {rule}")
