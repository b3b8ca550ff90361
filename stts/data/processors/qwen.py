"""A clip and a conversation -> the tensors transformers' Qwen3-VL and Qwen3.5 take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .flat import FlatProcessor

if TYPE_CHECKING:
    from ..video.read import Clip

VIDEO_TOKEN, VISION_START, VISION_END = "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"


class QwenProcessor(FlatProcessor):
    """Text and pixels of Qwen3VLProcessor. No clip reaches the model's last position: a unit takes no more than its
    longer side."""

    model_types = ("qwen3_vl", "qwen3_5")
    family, theirs = "Qwen3-VL", "Qwen3VLProcessor"
    tokens = ("<|image_pad|>", VIDEO_TOKEN, VISION_START, VISION_END)
    written = placeholder = VIDEO_TOKEN

    def video_string(self, clip: Clip) -> str:
        """Each unit as Qwen3-VL writes it: the mean time of its frames, then a token a window between markers."""
        _, rows, cols = self.window_grid(clip)
        shown = VISION_START + VIDEO_TOKEN * (rows * cols) + VISION_END
        return "".join(f"<{time:.1f} seconds>{shown}" for time in self.unit_times(clip.timestamps))
