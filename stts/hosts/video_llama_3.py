"""Video-LLaMA3: merge units in a row, as in Qwen2-VL, halved by the vision model itself; plain positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..pruning.windows import Grid
from .base import Clips, Host
from .qwen2_vl import known_of, sizes
from .qwen3_vl import merge_order


class VideoLlama3(Host):
    """VideoLlama3ForConditionalGeneration. A frame is a frame; videos are merged by 2 x 2, as its processor says."""

    vision_at = "model.vision_model"
    adapter_at = ("model.projector",)
    keys = ("pixel_values_videos", "video_grid_thw", "video_merge_sizes", "video_compression_mask")
    tail = "blocks"

    @property
    def unit(self) -> int:
        return 2

    @property
    def token_id(self) -> int:
        return self.model.config.video_token_id

    def clips(self, inputs: dict[str, Any]) -> Clips:
        sizes, merged = inputs["video_grid_thw"].tolist(), inputs["video_merge_sizes"].tolist()
        if set(merged) != {self.unit}:
            raise ValueError(f"video_merge_sizes are {merged}, must be {self.unit} for all videos")
        return Clips(tuple(t for t, _, _ in sizes), tuple((h, w) for _, h, w in sizes), self.unit)

    def cells(self, grid: Grid) -> Tensor:
        return merge_order(grid, self.unit)

    def still(self) -> dict[str, Tensor]:
        values = self.vision.embeddings.patch_embedding.weight[0].numel()
        return {
            "pixel_values_videos": torch.zeros(self.unit**2, values),
            "video_grid_thw": torch.tensor([[1, self.unit, self.unit]]),
            "video_merge_sizes": torch.tensor([self.unit]),
        }

    def encode(self, inputs: dict[str, Any], clips: Clips) -> tuple[Tensor, dict[str, list[Tensor]]]:
        stays = inputs.get("video_compression_mask")
        if stays is not None and not stays.all():
            raise ValueError(
                "video_compression_mask drops tokens, which is what pruning is for: process with "
                "use_token_compression=False"
            )
        pixels = inputs["pixel_values_videos"]
        grids = sizes(clips)  # on the host, where the vision model reads them
        merged = torch.tensor([self.unit] * len(grids))
        known = known_of(clips, self.vision.config, pixels.device)
        out = self.vision(pixels, grids, merged, **known)
        return self.model.base_model.projector(out.last_hidden_state), {}
