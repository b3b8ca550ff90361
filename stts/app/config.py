"""Settings of scripts/app.py: mistakes in them are found before torch is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..pruning.config import POLICIES
from ..rules import above, at_least, between, check, check_rules

CHOICES = tuple(policy for policy in POLICIES if policy != "given")
"""Policies that a page can offer: all that need nothing but the video."""


@dataclass(frozen=True)
class AppConfig:
    """What the page shows and who may open it. Raises ValueError, naming the key, for a value that makes no sense."""

    models: tuple[str, ...] = ("tiny",)
    """Names, folders or hub ids, as stts.load takes them."""
    video: str | None = None
    """A file, or a folder of frames, that is there at the start beside the demo's clips."""
    policy: str | None = None
    """The one chosen at the start. None: scorer where the model's was trained, else temporal."""
    prune_ratio: float = field(default=0.5, metadata=between(0, 1, "[)"))
    """The one chosen at the start."""
    frames: int = field(default=32, metadata=at_least(1))
    """At most so many frames of a clip, at the start."""
    max_frames: int = field(default=128, metadata=at_least(1))
    """The most frames that a visitor may ask for."""
    max_new_tokens: int = field(default=64, metadata=at_least(1))
    """Length of a reply."""
    seed: int = field(default=0, metadata=at_least(0))
    """Of policies that draw by chance, and of the scorer of a model that has none yet."""
    device: str | None = None
    """Where the models are. None: CUDA where there is one."""
    host: str = "127.0.0.1"
    """Who can reach the page."""
    port: int = field(default=7860, metadata=between(0, 65535))
    """Where it listens; 0: any that is free."""
    share: bool = False
    """Ask gradio for a public link."""
    max_upload_mb: float = field(default=512.0, metadata=above(0))
    """Size of an upload."""
    max_seconds: float = field(default=3600.0, metadata=above(0))
    """Length of a clip."""
    decode_timeout: float = field(default=300.0, metadata=above(0))
    """Seconds that reading a clip may take."""
    output_dir: str = "outputs/app"
    """Where the clips that are there at the start are kept."""

    def __post_init__(self) -> None:
        check_rules(self)
        check(bool(self.models), "models", self.models, "must be one model at least, e.g. models=[tiny]")
        known = self.policy is None or self.policy in CHOICES
        check(known, "policy", self.policy, f"must be one of {', '.join(CHOICES)}")
        check(
            self.frames <= self.max_frames,
            "frames",
            self.frames,
            f"must be at most {self.max_frames} (max_frames)",
        )
        if self.video is not None and not self.video_path.exists():
            raise ValueError(f"video is {self.video!r}: no such file or folder of frames")

    @property
    def video_path(self) -> Path:
        """Where the video is; ~ is the home folder."""
        return Path(self.video).expanduser()
