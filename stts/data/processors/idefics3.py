"""A clip and a conversation -> the tensors transformers' Idefics3 takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedConfig

from ..video.pixels import HALF
from .pictures import PictureProcessor
from .smolvlm import FAKE, IMAGE, WHOLE, SmolVLMProcessor
from .squares import Squares, interpolation

if TYPE_CHECKING:
    from ..video.read import Clip


class Idefics3Processor(PictureProcessor):
    """Text and pixels of Idefics3Processor for as many images as the clip has frames, one after the other, none of
    them split into parts."""

    model_types = ("idefics3",)
    family, theirs = "Idefics3", "Idefics3Processor"
    tokens = (IMAGE, FAKE, WHOLE)
    written, placeholder, kind = IMAGE, IMAGE, "image"
    scale = HALF

    @classmethod
    def squares_of(cls, settings: Mapping[str, Any]) -> Squares:
        side, first = (
            (settings.get(name) or {}).get("longest_edge", default)
            for name, default in (("max_image_size", 364), ("size", 1456))
        )
        return Squares(side, interpolation(settings, "lanczos"), first=first)

    @classmethod
    def across_of(cls, config: PreTrainedConfig) -> int:
        return SmolVLMProcessor.across_of(config)

    def video_string(self, clip: Clip) -> str:
        return f"{FAKE}{WHOLE}{IMAGE * self.across**2}{FAKE}" * len(clip.timestamps)
