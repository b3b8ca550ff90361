"""Qwen2-VL: memory as in Qwen3-VL, positions that run through a whole video at a constant pace."""

from __future__ import annotations

from os import PathLike
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.utils.generic import is_flash_attention_requested
from transformers.vision_utils import get_vision_cu_seqlens, get_vision_position_ids

from ..data.video.pixels import CLIP
from ..files.model_folder import BadFolder
from .base import Clips, Host
from .qwen3_vl import Qwen3VL


class Qwen2VL(Qwen3VL):
    """Qwen2VLForConditionalGeneration. All units of a video stand between one pair of markers, no text between."""

    adapter_at = ("model.visual.merger",)
    out_width = "hidden_size"
    """Of the vision config: how wide the LLM is."""

    output = Host.output

    @classmethod
    def check_config(cls, config: PreTrainedConfig, where: str | PathLike) -> None:
        found, wide = getattr(config.vision_config, cls.out_width), config.text_config.hidden_size
        if found != wide:
            raise BadFolder(
                f"{where}: {cls.out_width} of vision_config is {found} in config.json, must be the LLM's hidden_size "
                f"{wide}"
            )

    @property
    def dims(self) -> tuple[int, int]:
        config = self.vision.config
        return config.embed_dim, config.num_heads

    def floats(self, pixels: Tensor) -> Tensor:
        return CLIP(pixels.unflatten(1, (3, -1)), channels=1).flatten(1)

    def encode(self, inputs: dict[str, Any], clips: Clips) -> tuple[Tensor, dict[str, list[Tensor]]]:
        pixels = inputs["pixel_values_videos"].type(self.vision.dtype)
        known = self.known(clips, pixels.device)
        return self.vision(pixels, inputs["video_grid_thw"], **known).pooler_output, {}

    def known(self, clips: Clips, device: torch.device) -> dict[str, Any]:
        """What the vision model would otherwise work out from the grids, waiting for the device."""
        return known_of(clips, self.vision.config, device)

    def pace(self, inputs: dict[str, Any], clips: Clips) -> Tensor:
        """(V,) float32: how far a unit's position in time is from the one before."""
        return torch.ones(len(clips.frames))

    def positions(
        self, input_ids: Tensor, mask: Tensor, inputs: dict[str, Any], clips: Clips
    ) -> tuple[Tensor, Tensor]:
        video = self.placeholders(input_ids, inputs)
        if inputs.get("image_grid_thw") is None:
            return positions_of_whole_videos(video, mask, clips, self.pace(inputs, clips))
        types = 2 * video.int() + (input_ids == self.model.config.image_token_id).int()
        names = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
        given = {name: inputs[name] for name in names if inputs.get(name) is not None}
        return self.model.base_model.get_rope_index(input_ids, types, attention_mask=mask, **given)


def sizes(clips: Clips) -> Tensor:
    """(V, 3) units, rows and columns of patches of each video, on the CPU."""
    return torch.tensor([[t, *grid] for t, grid in zip(clips.frames, clips.grids, strict=True)])


def known_of(clips: Clips, config: PreTrainedConfig, device: torch.device) -> dict[str, Any]:
    """Positions of all patches and the segments that attend to themselves, as vision models of this kind take them.

    config: of the vision model."""
    thw = sizes(clips)
    segments = get_vision_cu_seqlens(thw)  # read on the host, but by FlashAttention
    if is_flash_attention_requested(config):
        segments = segments.to(device, non_blocking=True)
    return {
        "position_ids": get_vision_position_ids(thw, clips.unit).to(device, non_blocking=True),
        "cu_seqlens": segments,
        "max_seqlen": max(rows * cols for rows, cols in clips.grids),
    }


def positions_of_whole_videos(
    video: Tensor, mask: Tensor, clips: Clips, pace: Tensor
) -> tuple[Tensor, Tensor]:
    """Positions in time, height and width, (3, B, L), and how far they run ahead of the tokens, (B, 1).

    What get_rope_index of Qwen2-VL and Qwen2.5-VL says of text and videos, without reading the tokens. Text takes one
    step a token in all planes; the token behind a video follows max(rows, columns) after its start, however long it
    is. video: (B, L) bool, True at placeholders; mask: (B, L), 1 at tokens; pace: (V,).
    """
    device, real = mask.device, mask.bool()
    offsets, steps, owner = [], [], []
    for number, (units, (rows, cols)) in enumerate(zip(clips.frames, clips.grids, strict=True)):
        rows, cols = rows // clips.unit, cols // clips.unit
        places = torch.cartesian_prod(torch.arange(units), torch.arange(rows), torch.arange(cols)).view(-1, 3)
        step = torch.zeros(len(places), dtype=torch.int64)
        step[-1] = max(rows, cols)
        offsets.append(places)
        steps.append(step)
        owner.append(torch.full((len(places),), number))
    offset, step, owner = (torch.cat(x).to(device, non_blocking=True) for x in (offsets, steps, owner))
    pace = pace.to(device, non_blocking=True)
    offset = torch.cat([(offset[:, :1] * pace[owner, None]).long(), offset[:, 1:]], 1)
    number = (video.flatten().cumsum(0) - 1).clamp(min=0).view_as(video)  # of each placeholder, in the batch
    steps = torch.where(video, step[number], real.long())
    start = steps.cumsum(1) - steps  # (B, L)
    within = offset[number] * video[..., None]  # (B, L, 3)
    positions = (start[None] + within.permute(2, 0, 1)) * real
    return positions, (positions.amax((0, 2)) + 1 - real.sum(1))[:, None]
