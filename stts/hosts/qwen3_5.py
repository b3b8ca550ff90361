"""Qwen3.5: the vision model of Qwen3-VL without deepstack, before an LLM of gated delta nets and attention."""

from __future__ import annotations

from os import PathLike
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from ..files.model_folder import BadFolder
from .base import Clips, Host
from .qwen3_vl import Qwen3VL


class Qwen35(Qwen3VL):
    """Qwen3_5ForConditionalGeneration. What a recurrent layer remembers of a dropped window is nothing at all."""

    adapter_at = ("model.visual.merger",)
    output = Host.output

    @classmethod
    def check_config(cls, config: PreTrainedConfig, where: str | PathLike) -> None:
        found, wide = config.vision_config.out_hidden_size, config.text_config.hidden_size
        if found != wide:
            raise BadFolder(
                f"{where}: out_hidden_size is {found} in config.json, must be the LLM's hidden_size {wide}"
            )

    def encode(self, inputs: dict[str, Any], clips: Clips) -> tuple[Tensor, dict[str, list[Tensor]]]:
        pixels = inputs["pixel_values_videos"].type(self.vision.dtype)
        known = self._known(clips, pixels.device)
        return self.vision(pixels, inputs["video_grid_thw"], **known).pooler_output, {}
