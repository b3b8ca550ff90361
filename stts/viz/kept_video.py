"""What a model keeps of any one video: which windows, under which scores, frame by frame."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..chat import answer, prompt_inputs
from ..data.answers import parse_letter
from ..data.processors.base import Processor
from ..data.video.read import Clip, read_video
from .config import DrawingConfig

PICTURE_SIDE = 384
"""Pixels of the square pictures that are drawn on; what the model sees may be smaller."""
QUESTION = "Describe this video."
"""Said to the model with every video: windows are ranked before the text is read."""


@dataclass(frozen=True, eq=False)
class KeptVideo:
    """One video after a model has seen it."""

    name: str
    pictures: np.ndarray
    """(T, S, S, 3) uint8 RGB: the frames the model saw, squashed to squares, fine enough to look at."""
    timestamps: np.ndarray
    """(T,) seconds."""
    keep: np.ndarray
    """(T, rows, cols) bool, True = kept."""
    scores: np.ndarray | None
    """(T, rows, cols) float, what the windows were ranked by; None where nothing was ranked."""
    aspect: float = 1.0
    """Width over height of the video as it is stored."""

    @property
    def shares(self) -> np.ndarray:
        """(T,) share of each frame's windows that was kept."""
        return self.keep.mean((1, 2))

    @property
    def threshold(self) -> float | None:
        """The score below which windows of the later frames were dropped; None where no score divides them."""
        if self.scores is None or self.keep.all():
            return None
        highest = float(self.scores[~self.keep].max())
        later = self.scores[1:][self.keep[1:]]
        return highest if not later.size or later.min() >= highest else None


@dataclass(frozen=True, eq=False)
class Shown:
    """One video as a model takes it, and as people do."""

    name: str
    clip: Clip
    pictures: Clip
    """The same frames in another size, to draw on."""
    aspect: float = 1.0
    """Width over height of the video as it is stored."""


def read_shown(
    processor: Processor,
    path: str | os.PathLike[str],
    frames: int,
    read: Callable[..., Clip] = read_video,
    **reading: Any,
) -> Shown:
    """Read a video file. frames and reading: as in stts.data.read_video, less size; read: that, or what does the same
    elsewhere. Raises VideoError as read_video does."""
    height, width = read(path, 1, backend=reading.get("backend", "auto")).frames.shape[1:3]
    clip = read(path, frames, size=processor.image_size, **reading)
    pictures = read(path, frames, size=max(PICTURE_SIDE, processor.image_size or 0), **reading)
    return Shown(Path(path).name, clip, pictures, width / height)


def look_at(
    model: nn.Module,
    processor: Processor,
    path: str | os.PathLike[str],
    frames: int,
    seed: int = 0,
    **reading: Any,
) -> KeptVideo:
    """Show a video file to a pruning model and record what is left of it.

    frames and reading: as in read_shown; seed: as in kept_of. Raises VideoError as read_video does.
    """
    shown = read_shown(processor, path, frames, **reading)
    return kept_of(model, processor, shown.clip, shown.pictures, shown.name, shown.aspect, seed)


def kept_of(
    model: nn.Module,
    processor: Processor,
    clip: Clip,
    pictures: Clip,
    name: str = "",
    aspect: float = 1.0,
    seed: int = 0,
    **inputs: Tensor,
) -> KeptVideo:
    """Show a clip to a pruning model and record what is left of it.

    pictures: the same frames in another size, to draw on; seed: of policies that draw by chance; inputs: what else
    the model's forward takes. Where the model prunes nothing, all is kept and there are no scores.
    """
    inputs |= prompt_inputs(processor, QUESTION, clip, device=model.device)
    torch.manual_seed(seed)
    with torch.no_grad():
        output = model(**inputs, logits_to_keep=1)
    grid = processor.window_grid(clip)
    keep = np.ones(grid, bool) if output.keep_windows is None else _on_grid(output.keep_windows, grid)
    scores = None if output.scores is None else _on_grid(output.scores.float(), grid)
    unit = np.arange(len(clip.timestamps)) // processor.unit_frames  # of each frame
    scores = None if scores is None else scores[unit]
    return KeptVideo(name, pictures.frames, clip.timestamps, keep[unit], scores, aspect)


def ask_about(model: nn.Module, processor: Processor, drawing: DrawingConfig) -> str:
    """What the model answers the question of the settings: the option where it names one, else its words."""
    clip = read_video(drawing.path, drawing.frames, size=processor.image_size, **drawing.reading)
    torch.manual_seed(drawing.seed)
    return in_words(answer(model, processor, drawing.question, clip, drawing.options), drawing.options)


def in_words(reply: str, options: Sequence[str]) -> str:
    """The option that a reply names by its letter, else the reply."""
    chosen = parse_letter(reply, options) if options else None
    return reply if chosen is None else options[chosen]


def describe_kept(video: KeptVideo) -> dict[str, Any]:
    """The numbers behind the pictures, ready for JSON."""
    lows, highs = (
        (None, None) if video.scores is None else (video.scores.min((1, 2)), video.scores.max((1, 2)))
    )
    return {
        "video": video.name,
        "windows_per_frame": int(video.keep[0].size),
        "kept": float(video.keep.mean()),
        "threshold": video.threshold,
        "frames": [
            {
                "seconds": round(float(video.timestamps[t]), 3),
                "kept": float(share),
                "lowest_score": None if lows is None else float(lows[t]),
                "highest_score": None if highs is None else float(highs[t]),
            }
            for t, share in enumerate(video.shares)
        ],
    }


def _on_grid(values: Tensor, grid: tuple[int, int, int]) -> np.ndarray:
    return values.cpu().numpy().reshape(grid)
