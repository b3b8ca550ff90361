"""Models to which the frames of a video are images: (F, 3, H, W), with frames_per_video beside them.

An image that stands among the frames is a video of one frame, which stays whole.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..pruning.windows import Grid
from .base import Clips, Host


class FrameImages(Host):
    """What such models share. Without frames_per_video all frames are those of one video."""

    modality = "image"
    keys = ("pixel_values", "frames_per_video")

    @property
    def token_id(self) -> int:
        return self.model.config.image_token_id

    def accept(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A batch's videos are pixel_values_videos whatever the model: here they are images."""
        if "pixel_values_videos" in inputs:
            inputs = dict(inputs)
            inputs["pixel_values"] = inputs.pop("pixel_values_videos")
        return super().accept(inputs)

    def grid(self, height: int, width: int) -> Grid:
        """Patches of a frame of so many pixels."""
        patch = self.vision.config.patch_size
        rows, cols = (patch, patch) if isinstance(patch, int) else patch
        return height // rows, width // cols

    @property
    def frame_grid(self) -> Grid:
        side = self.vision.config.image_size
        return self.grid(*((side, side) if isinstance(side, int) else side))

    def clips(self, inputs: dict[str, Any]) -> Clips:
        images, _, height, width = inputs["pixel_values"].shape
        frames = tuple(inputs.get("frames_per_video") or [images])
        return Clips(frames, (self.grid(height, width),) * len(frames), self.unit)

    def still(self) -> dict[str, Tensor]:
        side = self.vision.config.image_size
        height, width = (side, side) if isinstance(side, int) else side
        return {"pixel_values": torch.ones(1, 3, height, width)}

    def output(self, rows, extra):
        out = super().output(rows, extra)
        out.pooler_output = torch.cat(list(rows))[None]
        return out
