"""Gemma 3: pooling of 4 x 4 patches; frames are images, whose tokens see each other both ways, image by image."""

from __future__ import annotations

from typing import Any

from .frame_images import FrameImages


class Gemma3(FrameImages):
    """Gemma3ForConditionalGeneration. Layers with a sliding window count surviving tokens."""

    @property
    def unit(self) -> int:
        return self.model.base_model.multi_modal_projector.kernel_size

    @property
    def unread(self) -> tuple[str, ...]:
        return (f"{self.vision_at}.head.",)

    def accept(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if inputs.get("token_type_ids") is None and inputs.get("mm_token_type_ids") is not None:
            inputs = inputs | {"token_type_ids": inputs["mm_token_type_ids"]}
        return super().accept(inputs)
