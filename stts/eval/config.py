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
from ..rules import at_least, check_rules, one_of, or_null

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvalConfig:
    """How to ask a model the questions of a benchmark.

    Raises ValueError, naming the key, for a value out of range.
    """

    benchmark: str
    """Name that results are filed under."""
    video: VideoConfig
    """Which frames of each clip are shown."""
    mode: str = field(default="logits", metadata=one_of("logits", "generate"))
    """"logits": compare the option letters as next token; "generate": read the letter from a reply."""
    batch_size: int = field(default=16, metadata=at_least(1))
    """At most so many questions in one forward pass, and so many videos decoded for it."""
    max_tokens: int = field(default=16384, metadata=at_least(1))
    """At most so many tokens in one forward pass, after pruning, padding included; a longer question goes alone."""
    workers: int = field(default=2, metadata=at_least(1))
    """Threads that decode videos ahead."""
    limit: int | None = field(default=None, metadata=or_null(at_least(1)))
    """Only the first so many questions. None: all."""
    max_new_tokens: int = field(default=12, metadata=at_least(1))
    """Length of a generated reply."""
    bad_videos: str = field(default="stop", metadata=one_of("stop", "wrong"))
    """A video that is missing or cannot be decoded, a question that cannot be asked (a special token in its text, a
    damaged subtitle file): "stop" the run, or count the video's questions, or that question, as "wrong"."""
    masks: bool = False
    """Record with each prediction which windows of its video were kept, a bit a window, for pictures in a report."""
    seed: int = field(default=0, metadata=at_least(0))
    """Of the random policy: of each video the same windows are drawn again."""
    progress: bool = True
    """Show a progress bar."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What else belongs to the settings of a run, e.g. the model's name; compared when it is restarted."""

    def __post_init__(self) -> None:
        check_rules(self, "eval", seed="seed")

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
