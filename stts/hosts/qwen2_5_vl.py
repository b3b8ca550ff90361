"""Qwen2.5-VL: windows of attention, patches in their order in memory, put back in order behind the merger."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.vision_utils import get_vision_window_index

from ..pruning.windows import Grid
from .base import Clips, Host
from .qwen2_vl import Qwen2VL, sizes
from .qwen3_vl import merge_order


class Qwen25VL(Qwen2VL):
    """Qwen2_5_VLForConditionalGeneration. Most blocks attend within windows of 112 x 112 pixels, a few within a unit;
    positions in time count seconds."""

    tail = "blocks"
    keys = ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts")
    out_width = "out_hidden_size"
    dims = Host.dims

    def cells(self, grid: Grid) -> Tensor:
        order, _ = self.windows(torch.tensor([[1, *grid]]))
        side = self.unit**2
        place = order.argsort()  # of each merge unit
        patch = merge_order(grid, self.unit)
        return place[patch // side] * side + patch % side

    def windows(self, thw: Tensor) -> tuple[Tensor, Tensor]:
        """Merge units in the order of memory, and where the windows of attention begin."""
        vision = self.vision
        return get_vision_window_index(thw, self.unit, vision.window_size, vision.patch_size)

    def known(self, clips: Clips, device: torch.device) -> dict[str, Any]:
        known = super().known(clips, device)
        order, starts = self.windows(sizes(clips))
        return known | {
            "window_index": order.to(device, non_blocking=True),
            "cu_window_seqlens": starts.to(known["cu_seqlens"].device, non_blocking=True),
            "max_window_seqlen": int(starts.diff().max()),
        }

    def pace(self, inputs: dict[str, Any], clips: Clips) -> Tensor:
        seconds = inputs.get("second_per_grid_ts")
        seconds = torch.ones(len(clips.frames)) if seconds is None else torch.as_tensor(seconds)
        return seconds * self.vision.config.tokens_per_second
