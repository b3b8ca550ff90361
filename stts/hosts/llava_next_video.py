"""LLaVA-NeXT-Video: a ViT with a class token, whose last block but one is read, and pooling of 2 x 2 patches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..pruning.windows import Grid
from .base import Clips, Host, as_rows
from .llava_onevision import LlavaOnevision


class LlavaNextVideo(LlavaOnevision):
    """LlavaNextVideoForConditionalGeneration. What the pooling leaves over at the edge belongs to no window."""

    num_prefix = 1
    adapter_before_pooling = False
    adapter_at = ("model.vision_resampler", "model.multi_modal_projector")
    windows_of, output = Host.windows_of, Host.output

    @property
    def unit(self) -> int:
        return self.model.config.spatial_pool_stride

    @property
    def tokens_across(self) -> int:
        return self.side // self.unit

    @property
    def unread(self) -> tuple[str, ...]:
        return (*super().unread, "model.image_newline")  # which stands between rows of images alone

    def cells(self, grid: Grid) -> Tensor:
        return (torch.arange(grid[0])[:, None] * self.side + torch.arange(grid[1])).flatten()

    def encode(self, inputs: dict[str, Any], clips: Clips) -> tuple[Tensor, dict[str, list[Tensor]]]:
        pixels = inputs["pixel_values_videos"]
        pixels = pixels if pixels.ndim == 5 else pixels[None]
        return as_rows(self.model.base_model.get_video_features(pixels, return_dict=True).pooler_output), {}
