"""A clip and a conversation -> the tensors transformers' LLaVA-OneVision and LLaVA-NeXT-Video take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import PreTrainedConfig

from ..video.pixels import CLIP
from .pictures import PictureProcessor
from .squares import Squares, interpolation, whole_side

if TYPE_CHECKING:
    from ..video.read import Clip

VIDEO = "<video>"


class LlavaOnevisionProcessor(PictureProcessor):
    """Text and pixels of LlavaOnevisionProcessor: all windows of a video in a row, and a newline behind them."""

    model_types: ClassVar[tuple[str, ...]] = ("llava_onevision",)
    family, theirs = "LLaVA-OneVision", "LlavaOnevisionProcessor"
    tokens = ("<image>", VIDEO)
    written = placeholder = VIDEO
    placeholder_setting = "video_token_id"
    scale = CLIP

    @classmethod
    def across_of(cls, config: PreTrainedConfig) -> int:
        return -(-(config.vision_config.image_size // config.vision_config.patch_size) // 2)

    def video_string(self, clip: Clip) -> str:
        return VIDEO * (len(clip.timestamps) * self.across**2 + 1)


class LlavaNextVideoProcessor(LlavaOnevisionProcessor):
    """Text and pixels of LlavaNextVideoProcessor: all windows of a video in a row; the middle of a frame."""

    model_types = ("llava_next_video",)
    family, theirs = "LLaVA-NeXT-Video", "LlavaNextVideoProcessor"

    @classmethod
    def squares_of(cls, settings: Mapping[str, Any]) -> Squares:
        side = whole_side(settings, "crop_size") or 336
        size = settings.get("size") or side
        shorter = size.get("shortest_edge", side) if isinstance(size, dict) else size
        if shorter != side or settings.get("do_center_crop") is False:
            raise ValueError(
                f"size is {size} and crop_size {settings.get('crop_size')}, must be the same: the shorter edge, and "
                "a square of it"
            )
        return Squares(side, interpolation(settings, "bicubic"), crop=True)

    @classmethod
    def across_of(cls, config: PreTrainedConfig) -> int:
        side = config.vision_config.image_size // config.vision_config.patch_size
        return side // config.spatial_pool_stride

    def video_string(self, clip: Clip) -> str:
        return VIDEO * (len(clip.timestamps) * self.across**2)
