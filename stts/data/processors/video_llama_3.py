"""A clip and a conversation -> the tensors transformers' Video-LLaMA3 takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from ..video.pixels import HALF, Scale
from .flat import FlatProcessor, since_first
from .qwen import VIDEO_TOKEN
from .qwen2_vl import BoundedFrames

if TYPE_CHECKING:
    from ..video.read import Clip


@dataclass(frozen=True)
class SharedFrames(BoundedFrames):
    """Single frames, which share the clip's largest number of pixels; the least is a frame's."""

    video_processor: ClassVar[str] = "VideoLlama3VideoProcessor"
    scale: ClassVar[Scale] = HALF
    temporal_patch_size: int = 1

    def size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        return smart_resize(height, width, self.factor, self.min_pixels, self.max_pixels // frames)

    def settings(self) -> dict[str, Any]:
        unknown = ("cap_pixels_per_frame", "max_video_tokens")
        known = {name: value for name, value in super().settings().items() if name not in unknown}
        return known | {"use_token_compression": False}


class VideoLlama3Processor(FlatProcessor):
    """Text and pixels of VideoLlama3Processor without its own compression of tokens: pruning is that."""

    model_types = ("video_llama_3",)
    family = "Video-LLaMA3"
    theirs = "VideoLlama3Processor"
    tokens = ("<|image_pad|>", VIDEO_TOKEN)
    written = placeholder = VIDEO_TOKEN
    frames_type = SharedFrames
    beside = ("video_merge_sizes",)

    def video_string(self, clip: Clip) -> str:
        _, rows, cols = self.window_grid(clip)
        return ",".join(f"Time {time:.1f}s:{VIDEO_TOKEN * (rows * cols)}" for time in since_first(clip))

    def beside_pixels(self, clip: Clip) -> dict[str, Tensor]:
        """video_merge_sizes (1,) int64: the side of a window in patches."""
        return {"video_merge_sizes": torch.tensor([self.frames.merge_size])}
