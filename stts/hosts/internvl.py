"""InternVL 2.5 to 3.5: a ViT with a class token, pixel shuffle of 2 x 2 patches; frames are images."""

from __future__ import annotations

from torch import Tensor

from ..data.video.pixels import IMAGENET
from .frame_images import FrameImages


class InternVL(FrameImages):
    """InternVLForConditionalGeneration, of folders in transformers' format."""

    blocks_at = "encoder.layer"
    num_prefix = 1

    @property
    def unit(self) -> int:
        return round(1 / self.model.config.downsample_ratio)

    @property
    def unread(self) -> tuple[str, ...]:
        layer = self.model.config.vision_feature_layer
        return () if layer == -1 else (*self.behind(layer), f"{self.vision_at}.layernorm.")

    def floats(self, pixels: Tensor) -> Tensor:
        return IMAGENET(pixels, channels=-3)
