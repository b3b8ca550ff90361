"""Settings of scripts/visualize.py, apart from the drawing: mistakes in them are found before torch is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..pruning.config import STTSConfig
from ..rules import at_least, between, check, check_rules

READING = ("max_fps", "backend", "sampling", "start", "end", "folder_fps")


@dataclass(frozen=True)
class DrawingConfig:
    """What to look at and how to draw it. Raises ValueError, naming the key, for a value that makes no sense."""

    video: str | None
    """A file, or a folder of frames."""
    frames: int = field(metadata=at_least(1))
    """At most this many frames of it are shown to the model."""
    reading: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of stts.data.read_video."""
    question: str | None = None
    """Asked about the video, if given; the answer stands in the title."""
    options: tuple[str, ...] = ()
    """Of a multiple-choice question."""
    seed: int = field(default=0, metadata=at_least(0))
    """Of policies that draw by chance."""
    sheet_frames: int = field(default=24, metadata=at_least(1))
    """Frames on the contact sheet; of longer clips evenly spaced ones."""
    mp4: bool = True
    """Write the moving picture, too."""
    fps: float = field(default=4.0, metadata=between(0, 120, "(]"))
    """Its frames a second, however far apart they lie in the video."""

    def __post_init__(self) -> None:
        if not self.video:
            raise ValueError(
                "video is not set: give the file or folder of frames to look at, e.g. video=clip.mp4"
            )
        check_rules(self, "draw", frames="frames", seed="seed")
        check(not self.options or bool(self.question), "options", self.options, "needs question=...")
        if unknown := [key for key in self.reading if key not in READING]:
            raise ValueError(f"reading.{unknown[0]} is not a setting; known: {', '.join(READING)}")

    @property
    def path(self) -> Path:
        """Where the video is; ~ is the home folder."""
        return Path(self.video).expanduser()

    def check_ready(self) -> None:
        """Raises ValueError unless the video is there."""
        if not self.path.exists():
            raise ValueError(f"video is {str(self.path)!r}: no such file or folder of frames")


def folder_for(video: str | Path, output_dir: str | Path) -> Path:
    """Where the pictures of a video go. Raises ValueError where those of another video of that name are."""
    path = Path(video)
    folder = Path(output_dir) / (path.name if path.is_dir() else path.stem)
    if (folder / "kept.json").is_file():
        drawn = json.loads((folder / "kept.json").read_text(encoding="utf-8")).get("file", str(video))
        if Path(drawn).absolute() != path.absolute():
            raise ValueError(f"{folder} has the pictures of {drawn}, not of {video}: give another output_dir")
    return folder


def headline(
    name: str, model: str, stts: STTSConfig, question: str | None = None, reply: str | None = None
) -> str:
    """What stands above the pictures: the video and the pruning, then question and answer if there are."""
    line = f"{name}   {model}, policy {stts.policy}, {stts.prune_ratio:.0%} dropped"
    return line if question is None else f"{line}\n{question}  \N{RIGHTWARDS ARROW}  {reply}"
