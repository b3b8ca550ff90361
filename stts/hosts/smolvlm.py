"""SmolVLM2 and Idefics3: pixel shuffle of 3 x 3, 4 x 4 or 2 x 2 patches; frames are images, row by row."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .base import Clips, Host, as_rows
from .frame_images import FrameImages


class SmolVLM(FrameImages):
    """SmolVLMForConditionalGeneration and Idefics3ForConditionalGeneration. Pixels are (B, T, 3, H, W), rows filled
    up with frames of zeros, or (F, 3, H, W); without frames_per_video the frames of a row are one video."""

    vision_at = "model.vision_model"
    adapter_at = ("model.connector",)
    layers_at = "model.text_model.layers"
    keys = ("pixel_values", "pixel_attention_mask", "frames_per_video")
    output = Host.output

    @property
    def unit(self) -> int:
        return self.model.config.scale_factor

    def accept(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs = super().accept(inputs)
        pixels = inputs.get("pixel_values")
        return inputs if pixels is None or pixels.ndim == 5 else inputs | {"pixel_values": pixels[None]}

    def clips(self, inputs: dict[str, Any]) -> Clips:
        pixels = inputs["pixel_values"]
        frames = inputs.get("frames_per_video")
        if frames is None:  # those that are not all zero, as the model counts them
            frames = [count for count in pixels.flatten(2).any(2).sum(1).tolist() if count]
        return Clips(tuple(frames), (self.grid(*pixels.shape[-2:]),) * len(frames), self.unit)

    def still(self) -> dict[str, Tensor]:
        return {name: x[None] for name, x in super().still().items()}

    def encode(self, inputs: dict[str, Any], clips: Clips) -> tuple[Tensor, dict[str, list[Tensor]]]:
        shown = inputs.get("pixel_attention_mask")
        if shown is not None and not shown.flatten(2)[inputs["pixel_values"].flatten(2).any(2)].all():
            raise ValueError(
                "pixel_attention_mask hides a part of a frame, which a pruning model cannot leave out: resize frames "
                "to whole squares, as for videos"
            )
        out = self.model.base_model.get_image_features(inputs["pixel_values"], return_dict=True)
        return as_rows(out.pooler_output), {}
