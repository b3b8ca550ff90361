"""A clip and a conversation -> the tensors transformers' Gemma 3 takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedConfig

from ..video.pixels import HALF
from .pictures import PictureProcessor
from .squares import Squares, interpolation, whole_side

if TYPE_CHECKING:
    from ..video.read import Clip

START, SOFT, END = "<start_of_image>", "<image_soft_token>", "<end_of_image>"


class Gemma3Processor(PictureProcessor):
    """Text and pixels of Gemma3Processor for as many images as the clip has frames, one after the other."""

    model_types = ("gemma3",)
    family, theirs = "Gemma 3", "Gemma3Processor"
    tokens = (START, SOFT, END)
    written, placeholder, kind = START, SOFT, "image"
    scale = HALF

    @classmethod
    def squares_of(cls, settings: Mapping[str, Any]) -> Squares:
        return Squares(whole_side(settings) or 896, interpolation(settings, "bilinear"))

    @classmethod
    def across_of(cls, config: PreTrainedConfig) -> int:
        return math.isqrt(config.mm_tokens_per_image)

    def video_string(self, clip: Clip) -> str:
        return f"\n\n{START}{SOFT * self.across**2}{END}\n\n" * len(clip.timestamps)
