"""Frames in their own shape -> patches with their places beside them, as Gemma 4 takes them.

In a batch they lie frame after frame, each filled up to the most patches that one of them has.

Patches stay uint8 until they are on the device: a quarter of the bytes to move.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F
from transformers.models.gemma4.image_processing_pil_gemma4 import get_aspect_ratio_preserving_size

from ..video.pixels import UNIT, Scale
from .base import Example
from .flat_videos import joined_scores
from .merge_units import check_scale, resize

SOFT_TOKENS = (70, 140, 280, 560, 1120)
"""Windows of a frame that the model was trained with."""


@dataclass(frozen=True)
class PlacedFrames:
    """How frames become patches. Raises ValueError, naming the setting, for values that do not go together."""

    video_processor: ClassVar[str] = "Gemma4VideoProcessor"
    """transformers' class that does the same."""
    scale: ClassVar[Scale] = UNIT
    """What the model makes of bytes."""
    temporal_patch_size: ClassVar[int] = 1
    patch_size: int = 16
    pooling_kernel_size: int = 3
    """Side of a window in patches: what one token of the LLM reads."""
    max_soft_tokens: int = 70
    """Windows of a frame at most; as many are taken as its shape allows."""

    def __post_init__(self) -> None:
        for name in ("patch_size", "pooling_kernel_size"):
            if not isinstance(value := getattr(self, name), int) or value < 1:
                raise ValueError(f"{name} is {value!r}, must be a whole number, at least 1")
        if self.max_soft_tokens not in SOFT_TOKENS:
            raise ValueError(
                f"max_soft_tokens is {self.max_soft_tokens!r}, must be one of {', '.join(map(str, SOFT_TOKENS))}"
            )

    @property
    def merge_size(self) -> int:
        """Side of a window in patches."""
        return self.pooling_kernel_size

    @property
    def factor(self) -> int:
        """Pixels of a window's side."""
        return self.patch_size * self.pooling_kernel_size

    def size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels that frames are resized to, however many there are."""
        most = self.max_soft_tokens * self.pooling_kernel_size**2
        return get_aspect_ratio_preserving_size(
            height, width, self.patch_size, most, self.pooling_kernel_size
        )

    def units(self, frames: int) -> int:
        """Units of time of a clip of so many frames."""
        return frames

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> PlacedFrames:
        """From the settings of transformers' video processor. Raises ValueError for pixels normalised otherwise."""
        check_scale(settings, cls.scale)
        found = {name: settings.get(name) for name in cls.__dataclass_fields__}
        return cls(**{name: value for name, value in found.items() if value is not None})

    def settings(self) -> dict[str, Any]:
        """Inverse of from_settings: what transformers' video processor reads."""
        return {
            "video_processor_type": self.video_processor,
            **{
                name: getattr(self, name) for name in ("patch_size", "pooling_kernel_size", "max_soft_tokens")
            },
            "image_mean": list(self.scale.mean),
            "image_std": list(self.scale.std),
        }

    def patches(self, frames: np.ndarray) -> Tensor:
        """(T, H, W, 3) uint8 -> (T, h * w, values) uint8: resized, cut row by row; values: pixels, channels last."""
        size = self.size(*frames.shape[:3])
        images = torch.cat([resize(frame[None], size) for frame in frames])
        return rearrange(images, "t c (y p) (x q) -> t (y x) (p q c)", p=self.patch_size, q=self.patch_size)


def places(rows: int, cols: int) -> Tensor:
    """(rows * cols, 2) int64: column and row of each patch of a frame."""
    row, col = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    return torch.stack([col, row], -1).flatten(0, 1)


@dataclass(frozen=True)
class PlacedVideos:
    """See base.VideoForm."""

    unit: int
    unit_frames = 1
    packs = False

    def windows(self, example: Example) -> list[tuple[int, int, int]]:
        """Frames, rows and columns of windows of an example's video, if it has one."""
        if (found := example.get("video_position_ids")) is None:
            return []
        cols, rows = (found[0, -1] + 1).tolist()  # of the last patch, as examples have no filler
        return [(len(found), rows // self.unit, cols // self.unit)]

    def join(self, examples: Sequence[Example]) -> dict[str, Any]:
        """pixel_values_videos (F, N, values) and video_position_ids (F, N, 2), -1 at filler, of all frames;
        num_frames_per_video (V,); window_scores as flat_videos.joined_scores."""
        examples = [example for example in examples if "video_position_ids" in example]
        if not examples:
            return {}
        most = max(example["video_position_ids"].shape[1] for example in examples)
        batch: dict[str, Any] = {
            "num_frames_per_video": torch.cat([x["num_frames_per_video"] for x in examples])
        }
        for key, value in (("pixel_values_videos", 0), ("video_position_ids", -1)):
            rows = [F.pad(x[key], (0, 0, 0, most - x[key].shape[1]), value=value) for x in examples]
            batch[key] = torch.cat(rows)
        return batch | joined_scores(examples)

    def unit_of(self, example: Example, number: int) -> dict[str, Tensor]:
        """A video of one frame of an example's video."""
        keys = ("pixel_values_videos", "video_position_ids")
        frame = {key: example[key][number : number + 1] for key in keys}
        return frame | {"num_frames_per_video": torch.tensor([1])}

    def first_video(self, batch: Mapping[str, Any]) -> tuple[np.ndarray, tuple[int, int, int]]:
        """Frames of a batch's first video, (T, H, W, 3) uint8, their number, rows and columns of windows."""
        frames = int(batch["num_frames_per_video"][0])
        cols, rows = (batch["video_position_ids"][0].amax(0) + 1).tolist()
        patches = batch["pixel_values_videos"][:frames, : rows * cols]
        side = math.isqrt(patches.shape[-1] // 3)
        pictures = rearrange(patches, "t (y x) (p q c) -> t (y p) (x q) c", y=rows, p=side, q=side)
        return pictures.cpu().numpy(), (frames, rows // self.unit, cols // self.unit)
