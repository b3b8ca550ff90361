"""Qwen3-VL: patches of all videos in one row, merge units one after the other, two frames in one temporal unit."""

from __future__ import annotations

import math
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures
from transformers.utils.generic import is_flash_attention_requested
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from ..files.model_folder import BadFolder
from ..pruning.windows import Grid
from .base import Clips, Host
from .deepstack import ARGUMENT, add_everywhere, spread_out


class Qwen3VL(Host):
    """Qwen3VLForConditionalGeneration. A "frame" is a temporal unit; LLM tokens are 2 x 2 patches of it; deepstack
    features ride beside them; positions have three planes, each unit apart, timestamps between them as text."""

    vision_at = "model.visual"
    blocks_at = "blocks"
    adapter_at = ("model.visual.merger", "model.visual.deepstack_merger_list")
    keys = ("pixel_values_videos", "video_grid_thw")
    tail = "none"
    mrope = True

    @classmethod
    def check_config(cls, config: PreTrainedConfig, where: str | PathLike) -> None:
        vision = config.vision_config
        layers, wide = vision.deepstack_visual_indexes, config.text_config.hidden_size
        if not all(0 <= layer < vision.depth for layer in layers):
            raise BadFolder(
                f"{where}: deepstack_visual_indexes is {layers} in config.json, must be layers of the {vision.depth} "
                "that the vision model has (depth)"
            )
        if vision.out_hidden_size != wide:
            raise BadFolder(
                f"{where}: out_hidden_size is {vision.out_hidden_size} in config.json, must be the LLM's hidden_size "
                f"{wide}"
            )

    @property
    def unit(self) -> int:
        return self.vision.spatial_merge_size

    @property
    def token_id(self) -> int:
        return self.model.config.video_token_id

    def clips(self, inputs: dict[str, Any]) -> Clips:
        sizes = inputs["video_grid_thw"].tolist()
        return Clips(tuple(t for t, _, _ in sizes), tuple((h, w) for _, h, w in sizes), self.unit)

    def cells(self, grid: Grid) -> Tensor:
        return merge_order(grid, self.unit)

    def placeholders(self, input_ids: Tensor, inputs: dict[str, Any]) -> Tensor:
        types = inputs.get("mm_token_type_ids")  # which tells a placeholder from the same token as an answer
        return input_ids == self.token_id if types is None else types == 2

    def encode(self, inputs: dict[str, Any], clips: Clips) -> tuple[Tensor, dict[str, list[Tensor]]]:
        pixels = inputs["pixel_values_videos"].type(self.vision.dtype)
        out = self.vision(pixels, inputs["video_grid_thw"], **self._known(clips, pixels.device))
        return out.pooler_output, {"deepstack_features": out.deepstack_features}

    def _known(self, clips: Clips, device: torch.device) -> dict[str, Any]:
        """What the vision model would otherwise work out from the grids, waiting for the device."""
        vision, thw = (
            self.vision,
            torch.tensor([[t, *grid] for t, grid in zip(clips.frames, clips.grids, strict=True)]),
        )
        indices, weights = get_vision_interpolation_indices_and_weights(
            thw,
            num_grid_per_side=vision.num_grid_per_side,
            mode=vision.interpolation_mode,
            align_corners=vision.interpolation_align_corners,
            spatial_merge_size=self.unit,
        )
        known = {
            "interp_indices": indices,
            "interp_weights": weights,
            "position_ids": get_vision_position_ids(thw, self.unit),
        }
        known = {name: x.to(device, non_blocking=True) for name, x in known.items()}
        segments = get_vision_cu_seqlens(thw)  # read on the host, but by FlashAttention
        if is_flash_attention_requested(vision.config):
            segments = segments.to(device, non_blocking=True)
        return known | {"cu_seqlens": segments, "max_seqlen": max(rows * cols for rows, cols in clips.grids)}

    def still(self) -> dict[str, Tensor]:
        size = math.prod(self.vision.patch_embed.proj.weight.shape[1:])
        return {
            "pixel_values_videos": torch.zeros(self.unit**2, size),
            "video_grid_thw": torch.tensor([[1, self.unit, self.unit]]),
        }

    def embed(self, input_ids: Tensor, features: Tensor, extra: dict[str, list[Tensor]]) -> dict[str, Any]:
        """deepstack features go in beside the embeddings, through a hook."""
        embeds = self.model.get_input_embeddings()(input_ids)
        places = input_ids == self.token_id
        given = {"inputs_embeds": spread_out(features, places, embeds)}
        if beside := extra.get("deepstack_features"):
            given[ARGUMENT] = [spread_out(x, places, torch.zeros_like(embeds)) for x in beside]
        return given

    def attach(self) -> None:
        self._llm.register_forward_pre_hook(add_everywhere, with_kwargs=True)

    def detach(self) -> None:
        hooks = self._llm._forward_pre_hooks
        for number in [number for number, hook in hooks.items() if hook is add_everywhere]:
            del hooks[number], self._llm._forward_pre_hooks_with_kwargs[number]

    @property
    def _llm(self) -> nn.Module:
        return self.model.get_submodule(self.layers_at.rpartition(".")[0])

    def output(self, rows, extra):
        return BaseModelOutputWithDeepstackFeatures(pooler_output=tuple(rows), **extra)

    def positions(
        self, input_ids: Tensor, mask: Tensor, inputs: dict[str, Any], clips: Clips
    ) -> tuple[Tensor, Tensor]:
        if inputs.get("image_grid_thw") is None:
            return mrope_positions(self.placeholders(input_ids, inputs), mask, clips)
        types = inputs.get("mm_token_type_ids")
        if types is None:
            types = (
                2 * (input_ids == self.token_id).int() + (input_ids == self.model.config.image_token_id).int()
            )
        grids = {name: inputs.get(name) for name in ("image_grid_thw", "video_grid_thw")}
        return self.model.base_model.get_rope_index(input_ids, types, attention_mask=mask, **grids)


def merge_order(grid: Grid, unit: int) -> Tensor:
    """(h * w,) place of each patch where memory holds windows of unit x unit one after the other."""
    rows, cols = grid
    places = torch.arange(rows * cols).view(rows // unit, cols // unit, unit, unit)
    return places.transpose(1, 2).flatten()


def mrope_positions(video: Tensor, mask: Tensor, clips: Clips) -> tuple[Tensor, Tensor]:
    """Positions in time, height and width, (3, B, L), and how far they run ahead of the tokens, (B, 1).

    What Qwen3VLModel.get_rope_index says of text and videos, without reading the tokens. A text token takes one step
    in all planes; the windows of a frame stand in one moment, at rows and columns from there on, and the next token
    follows max(rows, columns) later. video: (B, L) bool, True at placeholders; mask: (B, L), 1 at tokens.
    """
    device, real = mask.device, mask.bool()
    offsets, steps = [], []
    for frames, (rows, cols) in zip(clips.frames, clips.grids, strict=True):
        rows, cols = rows // clips.unit, cols // clips.unit
        places = torch.cartesian_prod(torch.arange(rows), torch.arange(cols)).view(-1, 2)  # (W, 2)
        step = torch.zeros(len(places), dtype=torch.int64)
        step[-1] = max(rows, cols)
        offsets.append(places.repeat(frames, 1))
        steps.append(step.repeat(frames))
    offset, step = (torch.cat(x).to(device, non_blocking=True) for x in (offsets, steps))
    number = (video.flatten().cumsum(0) - 1).clamp(min=0).view_as(video)  # of each placeholder, in the batch
    steps = torch.where(video, step[number], real.long())
    start = steps.cumsum(1) - steps  # (B, L)
    within = offset[number] * video[..., None]  # (B, L, 2)
    positions = torch.stack([start, start + within[..., 0], start + within[..., 1]]) * real
    return positions, (steps.sum(1) - real.sum(1))[:, None]
