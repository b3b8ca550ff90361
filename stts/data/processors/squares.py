"""Frames -> pictures of one size, for models whose ViT has one: resized, or cut to a square, as the model wants it.

Pictures stay uint8 until they are on the device: a quarter of the bytes to move.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..video.pixels import Scale
from .base import Example
from .flat_videos import joined_scores

MODES = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Kinds of interpolation, by PIL's number."""


@dataclass(frozen=True)
class Squares:
    """How frames become pictures. Raises ValueError, naming the setting, for values that make no picture."""

    side: int
    """Of a picture, in pixels."""
    mode: str = "bicubic"
    crop: bool = False
    """The shorter edge becomes `side`, and the middle is cut out; else the whole frame is squeezed into it."""
    first: int | None = None
    """The longer edge becomes this before, the shorter an even number."""

    def __post_init__(self) -> None:
        for name in ("side", "first"):
            value = getattr(self, name)
            if not (isinstance(value, int) and value > 0) and (name, value) != ("first", None):
                raise ValueError(f"{name} is {value!r}, must be a whole number of pixels, at least 1")
        if self.mode not in MODES.values():
            raise ValueError(f"mode is {self.mode!r}, must be one of {', '.join(MODES.values())}")

    def __call__(self, frames: np.ndarray) -> Tensor:
        """(T, H, W, 3) uint8 -> (T, 3, side, side) uint8."""
        return torch.cat([self._one(torch.from_numpy(frame[None])) for frame in frames])

    def _one(self, frame: Tensor) -> Tensor:
        image = frame.permute(0, 3, 1, 2).contiguous()
        if self.first is not None:
            image = self._resized(image, longest(*image.shape[2:], self.first))
        if not self.crop:
            return self._resized(image, (self.side, self.side))
        height, width = image.shape[2:]
        short = min(height, width)
        image = self._resized(image, (int(self.side * height / short), int(self.side * width / short)))
        top, left = ((size - self.side) // 2 for size in image.shape[2:])
        return image[:, :, top : top + self.side, left : left + self.side]

    def _resized(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        return (
            image if image.shape[2:] == size else F.interpolate(image, size, mode=self.mode, antialias=True)
        )


def longest(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width whose longer is `side`, as SmolVLM counts them: the shorter one is even."""
    ratio = width / height
    short = int(side / ratio) if width >= height else int(side * ratio)
    short = max(short + short % 2, 1)
    return (short, side) if width >= height else (side, short)


def interpolation(settings: Mapping[str, Any], default: str) -> str:
    """The mode that a folder's settings name by number."""
    number = settings.get("resample")
    return default if number is None else MODES.get(number, str(number))


def whole_side(settings: Mapping[str, Any], name: str = "size") -> int | None:
    """The side of the pictures that a folder asks for. Raises ValueError for pictures that are no squares."""
    size = settings.get(name) or {}
    sides = {size.get("height"), size.get("width")} - {None} if isinstance(size, dict) else {size}
    if len(sides) > 1:
        raise ValueError(f"{name} is {size}, must be a square")
    return sides.pop() if sides else None


@dataclass(frozen=True)
class PictureVideos:
    """How such videos lie in examples and batches: see base.VideoForm."""

    rows: int
    cols: int
    """Windows of a frame."""
    scale: Scale
    """That of pictures which travel as floats."""
    packs = False
    unit = None
    unit_frames = 1

    def windows(self, example: Example) -> list[tuple[int, int, int]]:
        """Frames, rows and columns of windows of an example's video, if it has one."""
        return (
            [(len(x), self.rows, self.cols)] if (x := example.get("pixel_values_videos")) is not None else []
        )

    def join(self, examples: Sequence[Example]) -> dict[str, Any]:
        """pixel_values_videos (F, 3, H, W), and frames_per_video, whose they are; window_scores if all have them."""
        examples = [example for example in examples if "pixel_values_videos" in example]
        if not examples:
            return {}
        pixels = torch.cat([example["pixel_values_videos"] for example in examples])
        frames = [len(example["pixel_values_videos"]) for example in examples]
        return {"pixel_values_videos": pixels, "frames_per_video": frames} | joined_scores(examples)

    def unit_of(self, example: Example, number: int) -> dict[str, Any]:
        """A video of one frame of an example's video."""
        return {"pixel_values_videos": example["pixel_values_videos"][number : number + 1]}

    def first_video(self, batch: Mapping[str, Any]) -> tuple[np.ndarray, tuple[int, int, int]]:
        """Frames of a batch's first video, (T, H, W, 3) uint8, their number, rows and columns of windows."""
        frames = batch["frames_per_video"][0]
        pixels = batch["pixel_values_videos"][:frames]
        if pixels.is_floating_point():
            pixels = self.scale.back(pixels, channels=1)
        return pixels.permute(0, 2, 3, 1).cpu().numpy(), (frames, self.rows, self.cols)
