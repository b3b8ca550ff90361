"""Molmo2: frames of one size, of which an attention pools windows of 3 x 3 patches; visual tokens see each other.

Its adapter reads several blocks, and pools by places that the processor lists. Images and videos share a placeholder:
a video's stand between frame_start and frame_end, an image's do not.
"""

from __future__ import annotations

import math
from os import PathLike
from typing import Any

import torch
from torch import Tensor
from transformers import Molmo2Config, Molmo2ForConditionalGeneration
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils import ModelOutput

from ..data.processors.molmo2 import check_frame_size
from ..data.video.pixels import normalize
from ..pruning.attention import install
from ..pruning.blocks import Pass, active_pass
from ..pruning.windows import Grid, window_grid, window_index
from .base import Clips, Host, in_placeholder_order
from .classes import pruning
from .sizes import POOL_WIDTH
from .vision import VisionHost

IMAGE_KEYS = ("pixel_values", "image_token_pooling", "image_grids")


class Molmo2(Host):
    """Molmo2ForConditionalGeneration."""

    vision_at = "model.vision_tower"
    blocks_at = "layers"
    adapter_at = (  # called one by one, not through the adapter
        "model.multi_modal_projector.image_pooling_2d",
        "model.multi_modal_projector.image_projector",
    )
    keys = ("pixel_values_videos", "video_token_pooling", "video_grids")
    tail = "none"
    unit = POOL_WIDTH
    served = True
    both_ways = True
    images_beside = False

    @classmethod
    def check_config(cls, config: Molmo2Config, where: str | PathLike) -> None:
        check_frame_size(config.vision_config, where)

    @property
    def token_id(self) -> int:
        return self.model.config.image_token_id

    @property
    def frame_grid(self) -> Grid:
        return patch_grid(self.vision.config)

    def clips(self, inputs: dict[str, Any]) -> Clips:
        frames = inputs["video_grids"][:, 0].tolist()
        return Clips(tuple(frames), (self.frame_grid,) * len(frames), self.unit)

    def accept(self, inputs: dict[str, Any]) -> dict[str, Any]:
        names = (self.keys[0], IMAGE_KEYS[0])
        found = {name: inputs[name] for name in names if inputs.get(name) is not None}
        return inputs | {name: self.floats(x) for name, x in found.items() if x.dtype == torch.uint8}

    def placeholders(self, input_ids: Tensor, inputs: dict[str, Any]) -> Tensor:
        return self._of_video(input_ids, inputs.get("pixel_values") is not None)

    def check_images(self, input_ids: Tensor, of_video: Tensor, inputs: dict[str, Any]) -> None:
        grids = inputs.get("image_grids")
        if grids is None:
            return
        rows, cols, crop_rows, crop_cols = grids.unbind(-1)
        wanted = int((rows * cols + crop_rows * crop_cols).sum())  # the whole view, and the crops
        found = int(((input_ids == self.token_id) & ~of_video).sum())
        if found != wanted:
            raise ValueError(
                f"input_ids has {found} visual placeholders outside of video frames, but the {len(grids)} images "
                f"of image_grids need {wanted}"
            )

    def _of_video(self, input_ids: Tensor, with_images: bool) -> Tensor:
        """(B, L) bool, True at the placeholders of videos; without images that is all of them."""
        placeholder, config = input_ids == self.token_id, self.model.config
        if not with_images:
            return placeholder
        place = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        started, ended = (
            torch.where(input_ids == token, place, -1).cummax(1).values
            for token in (config.frame_start_token_id, config.frame_end_token_id)
        )
        return placeholder & (started > ended)

    # From pixels to the LLM

    @property
    def collects(self) -> list[int]:
        """What the adapter concatenates, in its order."""
        return [layer % len(self.blocks) for layer in self.model.config.adapter_config.vision_feature_layer]

    def encode(self, inputs: dict[str, Any], clips: Clips) -> tuple[Tensor, dict[str, list[Tensor]]]:
        """With no run active bit for bit what get_video_features gives. That one waits for the device, for sizes and
        to learn which windows have a patch: those of videos all do."""
        now = active_pass()
        if now is None or now.host.vision is not self.vision:
            now = Pass(self, self.collects)
        install(self.vision.config)
        with now.active():
            self.vision(inputs["pixel_values_videos"])
        features = torch.cat([now.collected[block] for block in self.collects], -1).flatten(0, -2)
        return self.project(features, now.of_kept(inputs["video_token_pooling"])), {}

    def project(self, features: Tensor, patches: Tensor) -> Tensor:
        """The adapter: (K, D') patches -> (n, D_llm), one token for each row of patches, (n, p * p) places among
        the K, -1 where a grid was padded; none is all padding."""
        adapter, (rows, cols) = self.model.base_model.multi_modal_projector, self.frame_grid
        install(adapter.config)
        if math.prod(window_grid((rows, cols), self.unit)) * patches.shape[1] == rows * cols:
            windows, mask = features[patches], None  # (n, p * p, D')
            mean = windows.mean(1, keepdim=True)
        else:  # padded
            mask = patches >= 0
            windows = features[patches.clamp(0)] * mask.to(features.dtype)[..., None]
            mean = windows.sum(1, keepdim=True) / mask.sum(1)[:, None, None].to(windows.dtype)
            if mask.device.type == "cpu":  # it looks whether all are True
                mask = create_bidirectional_mask(adapter.config, mean, mask, encoder_hidden_states=windows)
        pooled, _ = adapter.image_pooling_2d(mean, windows, attention_mask=mask)
        return adapter.image_projector(pooled.squeeze(1))

    def others(self, inputs: dict[str, Any]) -> dict[str, ModelOutput]:
        inputs.pop("image_num_crops", None)
        images = {name: inputs.pop(name, None) for name in IMAGE_KEYS}
        if images["pixel_values"] is None:
            return {}
        return {"image": self.model.base_model.get_image_features(**images)}

    def in_order(
        self, features: Tensor, images: dict[str, ModelOutput], input_ids: Tensor
    ) -> tuple[Tensor, dict[str, ModelOutput]]:
        if not images:
            return features, {}
        of_video, placeholder = self._of_video(input_ids, True), input_ids == self.token_id
        parts = torch.cat(images["image"].pooler_output)
        return in_placeholder_order(features, parts, placeholder, of_video), {}

    def embed(self, input_ids: Tensor, features: Tensor, extra: dict[str, list[Tensor]]) -> dict[str, Tensor]:
        """Visual features are added to the embedding of their placeholder."""
        embeds = self.model.get_input_embeddings()(input_ids)
        placeholder = (input_ids == self.token_id).flatten()
        places = placeholder.logical_not().byte().argsort(stable=True)[: len(features)]
        embeds = embeds.flatten(0, 1).index_add(0, places, features.to(embeds.dtype)).view_as(embeds)
        return {"inputs_embeds": embeds}

    def still(self) -> dict[str, Tensor]:
        grid = self.frame_grid
        values = (
            torch.zeros(1, math.prod(grid), self.vision.patch_embedding.in_features),
            window_index(grid, self.unit),  # (W, p * p)
            torch.tensor([[1, *window_grid(grid, self.unit)]]),
        )
        return dict(zip(self.keys, values, strict=True))


class Molmo2Vision(VisionHost):
    """Molmo2VisionModel. It takes patches, (F, N, patch pixels), uint8 or normalised."""

    blocks_at = "layers"

    def grid(self, pixels: Tensor) -> Grid:
        return patch_grid(self.model.config)

    def floats(self, pixels: Tensor) -> Tensor:
        return normalize(pixels) if pixels.dtype == torch.uint8 else pixels


def patch_grid(config: Any) -> Grid:
    """Rows and columns of patches of a frame, by a vision config."""
    height, width = config.image_size
    return height // config.patch_size, width // config.patch_size


STTSMolmo2ForConditionalGeneration = pruning(Molmo2ForConditionalGeneration, Molmo2)
