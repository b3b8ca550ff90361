"""GLM-4.1V and GLM-4.6V: every unit of a video is an image to the vision model, and image tokens to the LLM."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from .base import Clips, Host, in_placeholder_order
from .qwen2_vl import Qwen2VL, sizes
from .qwen3_vl import mrope_positions


class Glm4v(Qwen2VL):
    """Glm4vForConditionalGeneration and Glm46VForConditionalGeneration. A unit is two frames; mm_token_type_ids tell
    a video's placeholders (2) from an image's (1)."""

    out_width = "out_hidden_size"
    images_beside = False
    adapter_at = ("model.visual.merger", "model.visual.downsample", "model.visual.post_layernorm")
    dims = Host.dims

    @property
    def token_id(self) -> int:
        return self.model.config.image_token_id

    def encode(self, inputs: dict[str, Any], clips: Clips) -> tuple[Tensor, dict[str, list[Tensor]]]:
        pixels = inputs["pixel_values_videos"].type(self.vision.dtype)
        grids = sizes(clips)
        images = grids.repeat_interleave(grids[:, 0], 0)
        images[:, 0] = 1
        known = self.known(clips, pixels.device)
        return self.vision(pixels, images.to(pixels.device, non_blocking=True), **known).pooler_output, {}

    def attach(self) -> None:
        super().attach()
        self.vision.embeddings.register_forward_pre_hook(lengths_beside)

    def detach(self) -> None:
        super().detach()
        hooks = self.vision.embeddings._forward_pre_hooks
        for number in [number for number, hook in hooks.items() if hook is lengths_beside]:
            del hooks[number]

    def positions(
        self, input_ids: Tensor, mask: Tensor, inputs: dict[str, Any], clips: Clips
    ) -> tuple[Tensor, Tensor]:
        if inputs.get("image_grid_thw") is None:
            return mrope_positions(self.placeholders(input_ids, inputs), mask, clips)
        names = ("mm_token_type_ids", "image_grid_thw", "video_grid_thw")
        given = {name: inputs.get(name) for name in names}
        return self.model.base_model.get_rope_index(input_ids, attention_mask=mask, **given)

    def in_order(
        self, features: Tensor, images: dict[str, ModelOutput], input_ids: Tensor
    ) -> tuple[Tensor, dict[str, ModelOutput]]:
        """A placeholder between the markers of a video is the video's."""
        if not images:
            return features, {}
        markers = (self.model.config.video_start_token_id, self.model.config.video_end_token_id)
        started, ended = ((input_ids == marker).cumsum(1) for marker in markers)
        placeholder, parts = input_ids == self.token_id, torch.cat(images["image"].pooler_output)
        return in_placeholder_order(features, parts, placeholder, placeholder & (started > ended)), {}


def lengths_beside(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Forward pre-hook of the table of positions: lengths of images, which the blocks read on the host, beside the
    patches."""
    patches, lengths, *others = args
    return (patches, lengths.to(patches.device, non_blocking=True), *others)
