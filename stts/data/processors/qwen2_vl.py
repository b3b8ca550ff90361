"""A clip and a conversation -> the tensors transformers' Qwen2-VL and Qwen2.5-VL take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from ..video.pixels import CLIP, Scale
from .flat import FlatProcessor, since_first
from .merge_units import Frames
from .qwen import VIDEO_TOKEN, QwenProcessor

if TYPE_CHECKING:
    from ..video.read import Clip


@dataclass(frozen=True)
class BoundedFrames(Frames):
    """Bounds are those of one frame, not of the clip; cap_pixels_per_frame bounds the clip, too, by tokens."""

    video_processor: ClassVar[str] = "Qwen2VLVideoProcessor"
    scale: ClassVar[Scale] = CLIP
    patch_size: int = 14
    min_pixels: int = 128 * 28 * 28
    max_pixels: int = 768 * 28 * 28
    max_video_tokens: int = 128000

    def size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        most = self.max_pixels
        if self.cap_pixels_per_frame:
            total = int(self.max_video_tokens * self.factor**2 * 0.9)
            most = max(min(most, total * self.temporal_patch_size // frames), int(self.min_pixels * 1.05))
        return smart_resize(height, width, self.factor, self.min_pixels, most)


class Qwen2VLProcessor(FlatProcessor):
    """Text and pixels of Qwen2VLProcessor: all units of a video between one pair of markers, without their times."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl",)
    family, theirs = "Qwen2-VL", "Qwen2VLProcessor"
    tokens = QwenProcessor.tokens
    written = placeholder = VIDEO_TOKEN
    frames_type = BoundedFrames

    def video_string(self, clip: Clip) -> str:
        """A token a window; the markers around them are in the chat template."""
        units, rows, cols = self.window_grid(clip)
        return VIDEO_TOKEN * (units * rows * cols)


class Qwen25VLProcessor(Qwen2VLProcessor):
    """The same for Qwen2.5-VL, which is told how long a unit lasts."""

    model_types = ("qwen2_5_vl",)
    family, theirs = "Qwen2.5-VL", "Qwen2_5_VLProcessor"
    beside = ("second_per_grid_ts",)

    def beside_pixels(self, clip: Clip) -> dict[str, Tensor]:
        """second_per_grid_ts (1,) float32: seconds from a unit to the next, on average; 1 where there is but one."""
        times = since_first(clip)
        seconds = self.unit_frames * times[-1] / (len(times) - 1) if len(times) > 1 else 1.0
        return {"second_per_grid_ts": torch.tensor([seconds], dtype=torch.float32)}
