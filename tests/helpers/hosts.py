"""The hosts that tests/hosts/test_battery.py runs, one row each."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Molmo2ForConditionalGeneration,
    PreTrainedModel,
)

from stts.hosts.base import Clips, Host
from tests.helpers.host_row import (
    Row,
    Video,
    as_plain,
    causal,
    grown,
    padded,
    row_major,
)
from tests.helpers.hosts_flat import flat_rows
from tests.helpers.hosts_frames import frame_rows
from tests.helpers.molmo2 import PATCH_ID, make_inputs, tiny_config

__all__ = ["Row", "as_plain", "rows"]


# Molmo2


def molmo2() -> PreTrainedModel:
    return grown(Molmo2ForConditionalGeneration(tiny_config()))


class Described(Host):
    """Molmo2ForConditionalGeneration by hand, with nothing but what every host says."""

    blocks_at = "layers"
    keys = ("pixel_values_videos", "video_token_pooling", "video_grids")
    unit = 3

    @property
    def token_id(self) -> int:
        return self.model.config.image_token_id

    def clips(self, inputs: dict[str, Any]) -> Clips:
        config = self.vision.config
        grid = tuple(side // config.patch_size for side in config.image_size)
        frames = inputs["video_grids"][:, 0].tolist()
        return Clips(tuple(frames), (grid,) * len(frames), self.unit)


def molmo2_inputs(
    videos: list[list[Video]], numbers: list[int] | None = None, pad: str = "left"
) -> dict[str, Any]:
    """make_inputs row by row, so that a row's pixels do not depend on the others."""
    singles = [
        make_inputs([[frames for frames, _, _ in row]], seed=number, text=5 + number)
        for number, row in zip(numbers or range(len(videos)), videos, strict=True)
    ]
    per_token = ("input_ids", "attention_mask", "mm_token_type_ids")
    inputs = {name: padded([one[name][0].tolist() for one in singles], pad) for name in per_token}
    pooling, frames = [], 0
    for one in singles:
        index = one["video_token_pooling"]
        pooling.append(torch.where(index >= 0, index + frames * 36, -1))
        frames += len(one["pixel_values_videos"])
    inputs["video_token_pooling"] = torch.cat(pooling)
    for name in ("pixel_values_videos", "video_grids"):
        inputs[name] = torch.cat([one[name] for one in singles])
    return inputs


def both_ways(inputs: dict[str, Any]) -> Tensor:
    """Causal, and visual tokens see each other."""
    visual = inputs["mm_token_type_ids"] == 1
    return causal(inputs) | (visual[:, :, None] & visual[:, None, :])


@cache
def rows() -> list[Row]:
    """All hosts of the battery. A new one is a row."""
    return [
        *flat_rows(),
        Row(
            name="molmo2",
            make=molmo2,
            inputs=molmo2_inputs,
            videos=[[(5, 6, 6)], [(3, 6, 6), (4, 6, 6)]],
            unit=3,
            memory=row_major,
            blocks="model.vision_tower.layers",
            visible=both_ways,
            positions=lambda model, inputs: None,
            placeholders=lambda inputs: inputs["input_ids"] == PATCH_ID,
            words=48,
        ),
        Row(
            name="molmo2_described",
            make=molmo2,
            inputs=molmo2_inputs,
            videos=[[(5, 6, 6)], [(3, 6, 6), (4, 6, 6)]],
            unit=3,
            memory=row_major,
            blocks="model.vision_tower.layers",
            visible=both_ways,
            positions=lambda model, inputs: None,
            placeholders=lambda inputs: inputs["input_ids"] == PATCH_ID,
            words=48,
            host=Described,
        ),
        *frame_rows(),
    ]
