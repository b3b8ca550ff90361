"""Which frames of a video are taken, as settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...rules import above, at_least, check_rules, one_of

FOLDER_FPS = 2.0
"""Images a second of a video that is a folder of them, where nothing else is said: LLaVA-Video's own training takes
LLaVA-Hound's folders so."""


@dataclass(frozen=True)
class VideoConfig:
    """How frames are taken from a video file: the top-level key `frames` and the keys under `video`."""

    frames: int = field(metadata=at_least(1))
    """At most this many frames of each clip."""
    max_fps: float = field(default=2.0, metadata=above(0))
    """Frames a second are never denser than this."""
    backend: str = field(default="auto", metadata=one_of("auto", "pyav", "decord"))
    """Decoder: "auto", "pyav" or "decord"."""
    sampling: str = field(default="time", metadata=one_of("time", "transformers"))
    """"time": evenly, the last instant included; "transformers": transformers' own rule."""

    def __post_init__(self) -> None:
        check_rules(self, "video", frames="frames")
