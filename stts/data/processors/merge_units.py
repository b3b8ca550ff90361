"""Frames in their own shape -> patches, one window after the other, as the Qwen family and others take them.

Frames are resized to the nearest multiple of a window, within bounds on the pixels of the whole clip. Two frames make
one unit of time; of an odd number the last one is repeated. Patches stay uint8 until they are on the device: a
quarter of the bytes to move.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

from ..video.pixels import HALF, Scale


@dataclass(frozen=True)
class Frames:
    """How frames become patches. Raises ValueError, naming the setting, for values that do not go together."""

    video_processor: ClassVar[str] = "Qwen3VLVideoProcessor"
    """transformers' class that does the same."""
    scale: ClassVar[Scale] = HALF
    """What the model makes of bytes."""
    patch_size: int = 16
    temporal_patch_size: int = 2
    """Frames that are one unit of time."""
    merge_size: int = 2
    """Side of a window in patches: what one token of the LLM reads."""
    min_pixels: int = 128 * 32 * 32
    """Of the whole clip, all frames together."""
    max_pixels: int = 768 * 32 * 32
    cap_pixels_per_frame: bool = False
    """Bound each frame, too, as Qwen's own code does. Written down, as transformers' default differs by version."""
    max_video_tokens: int = 768
    """That bound, in windows."""

    def __post_init__(self) -> None:
        names = ("patch_size", "temporal_patch_size", "merge_size", "min_pixels", "max_pixels")
        for name in (*names, "max_video_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}, must be a whole number, at least 1")
        if self.max_pixels < max(self.min_pixels, self.temporal_patch_size * self.factor**2):
            raise ValueError(
                f"max_pixels is {self.max_pixels}, must be at least min_pixels, {self.min_pixels}, and one window of "
                f"{self.factor} x {self.factor} pixels in {self.temporal_patch_size} frames"
            )

    @property
    def factor(self) -> int:
        """Pixels of a window's side."""
        return self.patch_size * self.merge_size

    def size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels that a clip of so many frames is resized to."""
        max_pixels = self.max_pixels
        frames = max(frames, self.temporal_patch_size)  # a single frame is shown twice
        if self.cap_pixels_per_frame:
            cap = min(self.max_video_tokens * self.factor**2, max_pixels // frames)
            max_pixels = max(cap, int(self.min_pixels * 1.05)) * frames
        return smart_resize(
            num_frames=frames,
            height=height,
            width=width,
            temporal_factor=self.temporal_patch_size,
            factor=self.factor,
            min_pixels=self.min_pixels,
            max_pixels=max_pixels,
        )

    def units(self, frames: int) -> int:
        """Units of time of a clip of so many frames."""
        return -(-frames // self.temporal_patch_size)

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Frames:
        """From the settings of transformers' video processor. Raises ValueError for pixels normalised otherwise."""
        check_scale(settings, cls.scale)
        size = settings.get("size") or {}
        if not isinstance(size, dict):
            raise ValueError(f"size is {size!r}, must name shortest_edge and longest_edge, pixels of a clip")
        found = {name: settings.get(name) for name in cls.__dataclass_fields__}
        for name, edge in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge")):
            found[name] = settings.get(name) or size.get(edge)  # older files have them at the top
        return cls(**{name: value for name, value in found.items() if value is not None})

    def settings(self) -> dict[str, Any]:
        """Inverse of from_settings: what transformers' video processor reads."""
        return {
            "video_processor_type": self.video_processor,
            "size": {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels},
            "patch_size": self.patch_size,
            "temporal_patch_size": self.temporal_patch_size,
            "merge_size": self.merge_size,
            "cap_pixels_per_frame": self.cap_pixels_per_frame,
            "max_video_tokens": self.max_video_tokens,
            "image_mean": list(self.scale.mean),
            "image_std": list(self.scale.std),
        }

    def patches(self, frames: np.ndarray) -> Tensor:
        """(T, H, W, 3) uint8 -> (units * h * w, values) uint8: resized, cut, windows row by row, in each its patches.

        Values of a patch: its channels, of each the frames of its unit.
        """
        size = self.size(*frames.shape[:3])
        images = torch.cat([resize(frame[None], size) for frame in frames])
        if missing := self.units(len(images)) * self.temporal_patch_size - len(images):
            images = torch.cat([images, images[-1:].expand(missing, -1, -1, -1)])
        sides = {"m": self.merge_size, "n": self.merge_size, "p": self.patch_size, "q": self.patch_size}
        return rearrange(
            images, "(t u) c (y m p) (x n q) -> (t y x m n) (c u p q)", u=self.temporal_patch_size, **sides
        )


def check_scale(settings: dict[str, Any], scale: Scale) -> None:
    """Raises ValueError for settings whose pixels are normalised otherwise."""
    for name, known in (("image_mean", scale.mean), ("image_std", scale.std)):
        values = settings.get(name, known)
        values = tuple(values) if isinstance(values, list | tuple) else (values,) * 3
        if values != known:
            rule = known[0] if len(set(known)) == 1 else list(known)
            raise ValueError(
                f"{name} is {list(values)}, must be {rule}: patches travel as bytes, which the model scales so"
            )


def resize(frames: np.ndarray, size: tuple[int, int]) -> Tensor:
    """(T, H, W, 3) uint8 -> (T, 3, height, width) uint8: bicubic with antialias, rounded."""
    images = torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()
    if images.shape[2:] == size:
        return images
    return F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)


def unpatchify(patches: Tensor, grid: tuple[int, int, int], merge_size: int, unit_frames: int) -> Tensor:
    """Inverse of Frames.patches: of one clip, whose grid is (units, rows, columns of windows), -> its resized frames
    (units, unit_frames, H, W, 3)."""
    units, rows, cols = grid
    side = math.isqrt(patches.shape[1] // 3 // unit_frames)
    sizes = {"t": units, "y": rows, "x": cols, "m": merge_size, "n": merge_size}
    sizes |= {"c": 3, "u": unit_frames, "p": side, "q": side}
    return rearrange(patches, "(t y x m n) (c u p q) -> t u (y m p) (x n q) c", **sizes)
