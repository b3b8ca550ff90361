"""Gemma 4: patches of a frame with their places beside them, averaged 3 x 3 by place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import Clips, Host, as_rows


class Gemma4(Host):
    """Gemma4ForConditionalGeneration. Frames of a batch have one size; filler behind their patches is cut off."""

    adapter_at = ("model.embed_vision",)
    keys = ("pixel_values_videos", "video_position_ids", "num_frames_per_video")
    tail = "blocks"

    @property
    def unit(self) -> int:
        return self.vision.config.pooling_kernel_size

    @property
    def token_id(self) -> int:
        return self.model.config.video_token_id

    def clips(self, inputs: dict[str, Any]) -> Clips:
        sizes = {tuple(size) for size in (inputs["video_position_ids"].amax(1) + 1).tolist()}
        if len(sizes) > 1:
            raise ValueError(
                f"frames of a batch have {sorted(sizes)} columns and rows of patches, must have one size"
            )
        ((cols, rows),) = sizes
        frames = tuple(torch.as_tensor(inputs["num_frames_per_video"]).tolist())
        return Clips(frames, ((rows, cols),) * len(frames), self.unit)

    def encode(self, inputs: dict[str, Any], clips: Clips) -> tuple[Tensor, dict[str, list[Tensor]]]:
        rows, cols = clips.grids[0]
        pixels, places = (inputs[key][:, : rows * cols] for key in self.keys[:2])
        frames = torch.tensor(clips.frames)
        out = self.model.base_model.get_video_features(
            pixels, places, num_frames_per_video=frames, return_dict=True
        )
        return as_rows(out.pooler_output), {}

    def still(self) -> dict[str, Tensor]:
        side = self.unit
        places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).flip(1)
        return {
            "pixel_values_videos": torch.zeros(1, side**2, self.vision.patch_embedder.input_proj.in_features),
            "video_position_ids": places[None],
            "num_frames_per_video": torch.tensor([1]),
        }

    def for_survivors(self, kwargs: dict[str, Any], index: Tensor) -> dict[str, Any]:
        kwargs = super().for_survivors(kwargs, index)
        kwargs["position_embeddings"] = tuple(x[None] for x in kwargs["position_embeddings"])
        return kwargs | {"position_ids": kwargs["position_ids"].flatten(0, 1).index_select(0, index)[None]}
