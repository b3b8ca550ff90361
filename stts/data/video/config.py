"""Which frames of a video are taken, as settings."""

from __future__ import annotations

from dataclasses import dataclass

FOLDER_FPS = 2.0
"""Images a second of a video that is a folder of them, where nothing else is said: LLaVA-Video's own training takes
LLaVA-Hound's folders so."""


@dataclass(frozen=True)
class VideoConfig:
    """How frames are taken from a video file: the top-level key `frames` and the keys under `video`."""

    frames: int
    """At most this many frames of each clip."""
    max_fps: float = 2.0
    """Frames a second are never denser than this."""
    backend: str = "auto"
    """Decoder: "auto", "pyav" or "decord"."""
    sampling: str = "time"
    """"time": evenly, the last instant included; "transformers": transformers' own rule."""

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"frames is {self.frames}, must be at least 1")
        if not self.max_fps > 0:
            raise ValueError(f"video.max_fps is {self.max_fps}, must be above 0")
        if self.backend not in ("auto", "pyav", "decord"):
            raise ValueError(f"video.backend is {self.backend!r}, must be auto, pyav or decord")
        if self.sampling not in ("time", "transformers"):
            raise ValueError(f"video.sampling is {self.sampling!r}, must be time or transformers")
