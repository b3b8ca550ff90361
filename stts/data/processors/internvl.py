"""A clip and a conversation -> the tensors transformers' InternVL takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers import PreTrainedConfig

from ..video.pixels import IMAGENET
from .pictures import PictureProcessor

if TYPE_CHECKING:
    from ..video.read import Clip

START, CONTEXT, END = "<img>", "<IMG_CONTEXT>", "</img>"


class InternVLProcessor(PictureProcessor):
    """Text and pixels of InternVLProcessor: each frame an image of one tile, under its number."""

    model_types = ("internvl",)
    family, theirs = "InternVL", "InternVLProcessor"
    tokens = (START, CONTEXT, END)
    written, placeholder = "<video>", CONTEXT
    scale = IMAGENET

    @classmethod
    def across_of(cls, config: PreTrainedConfig) -> int:
        vision = config.vision_config
        sides = (
            side if isinstance(side, int) else side[0] for side in (vision.image_size, vision.patch_size)
        )
        side, patch = sides
        return round(side // patch * config.downsample_ratio)

    def video_string(self, clip: Clip) -> str:
        shown = f"{START}{CONTEXT * self.across**2}{END}"
        return "\n".join(f"Frame{i + 1}: {shown}" for i in range(len(clip.timestamps)))
