"""Molmo2's vision tower, adapter and placeholders, with dropped windows gone from all three."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Molmo2Config, Molmo2Model
from transformers import initialization as init
from transformers.models.molmo2.modeling_molmo2 import (
    Molmo2Adapter,
    Molmo2PreTrainedModel,
    Molmo2TextModel,
    Molmo2VisionConfig,
    Molmo2VisionModel,
)

from .attention import install
from .config import STTSConfig
from .data.pixels import normalize
from .layout import BatchLayout
from .survivors import Survivors, compact_positions, keep_tokens, plan_survivors
from .vit import PrunedFeatures, build_scorer, run_pruned
from .windows import Grid, window_grid


@dataclass(frozen=True)
class PrunedInputs:
    """A batch whose videos were encoded and pruned: what the LLM takes."""

    visual: Tensor
    """(K, D) LLM features of the kept windows of all videos."""
    vision: PrunedFeatures
    survivors: Survivors
    input_ids: Tensor
    """(B, L_kept), like all that follow."""
    attention_mask: Tensor
    position_ids: Tensor
    mm_token_type_ids: Tensor | None
    sequence_ids: Tensor | None


class STTSVisionModel(Molmo2VisionModel):
    """transformers' vision tower with a scorer; `forward` is its own, `encode` prunes."""

    def __init__(self, config: Molmo2VisionConfig, stts: STTSConfig) -> None:
        super().__init__(config)
        self.scorer = build_scorer(config, stts)
        self.scorer_bias = stts.scorer_bias
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        scorer = getattr(self, "scorer", None)  # not there yet when the parent's constructor calls
        if (
            isinstance(module, nn.Linear)
            and scorer is not None
            and any(module is m for m in scorer.modules())
        ):
            # the usual 0.02 would bunch all scores of a narrow ViT at 0.5
            init.normal_(module.weight, std=module.in_features**-0.5)
            init.constant_(module.bias, self.scorer_bias if module is scorer.fc3 else 0.0)
        else:
            super()._init_weights(module)

    @property
    def grid(self) -> Grid:
        """Rows and columns of patches of a frame."""
        height, width = self.config.image_size
        return height // self.config.patch_size, width // self.config.patch_size

    def encode(
        self, pixels: Tensor, stts: STTSConfig, frames_per_video: tuple[int, ...], layers: list[int]
    ) -> PrunedFeatures:
        """(F, N, patch pixels), uint8 or normalised -> what blocks `layers` say of the surviving patches."""
        install(self.config)
        x = self.patch_embedding(to_float(pixels).to(self.dtype))  # (F, N, D)
        x = x + self.positional_embedding.to(x)
        return run_pruned(self.layers, x, self.scorer, stts, frames_per_video, self.grid, layers)


class STTSMolmo2Model(Molmo2Model):
    """transformers' Molmo2Model around an STTSVisionModel."""

    def __init__(self, config: Molmo2Config) -> None:
        Molmo2PreTrainedModel.__init__(self, config)  # the parent's would build the plain vision tower first
        self.stts = STTSConfig.from_dict(config.stts)
        self.vision_tower = STTSVisionModel(config.vision_config, self.stts)
        self.multi_modal_projector = Molmo2Adapter(config.adapter_config)
        self.language_model = Molmo2TextModel(config.text_config)
        self.post_init()

    @property
    def num_windows(self) -> int:
        """W, windows of a frame."""
        rows, cols = window_grid(self.vision_tower.grid, self.stts.pool_width)
        return rows * cols

    @property
    def feature_layers(self) -> list[int]:
        """Zero-based blocks whose outputs the adapter concatenates, in its order."""
        num_layers = len(self.vision_tower.layers)
        return [layer % num_layers for layer in self.config.adapter_config.vision_feature_layer]

    def get_image_features(self, pixel_values: Tensor, *args, **kwargs):
        """As transformers' own; uint8 pixels are normalised here, on the device."""
        return super().get_image_features(to_float(pixel_values), *args, **kwargs)

    def layout_of(self, input_ids: Tensor, attention_mask: Tensor | None, video_grids: Tensor) -> BatchLayout:
        """The batch's sizes, for callers that did not keep them."""
        placeholders = input_ids == self.config.image_token_id
        return BatchLayout.from_tensors(placeholders, attention_mask, video_grids, self.num_windows)

    def kept_windows(self, layout: BatchLayout) -> list[int]:
        """Windows each video keeps."""
        return layout.kept_windows(self.num_windows, self.stts.prune_ratio)

    def prunes(self, layout: BatchLayout) -> bool:
        """Whether any video of the batch loses a window."""
        return sum(self.kept_windows(layout)) < sum(layout.frames_per_video) * self.num_windows

    def prune(
        self,
        input_ids: Tensor,
        pixel_values_videos: Tensor,
        video_token_pooling: Tensor,
        layout: BatchLayout,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        sequence_ids: Tensor | None = None,
        left: bool | None = None,
    ) -> PrunedInputs:
        """Encode the videos, drop windows, and take their placeholders out of the sequence.

        Arguments as in STTSMolmo2ForConditionalGeneration.forward; left: side of the padding, None for that of
        the input.
        """
        vision = self.vision_tower.encode(
            pixel_values_videos, self.stts, layout.frames_per_video, self.feature_layers
        )
        keep = keep_tokens(input_ids == self.config.image_token_id, vision.keep, attention_mask)
        length = max(layout.kept_lengths(self.num_windows, self.stts.prune_ratio))
        left_padded = None if attention_mask is None else attention_mask[:, 0] == 0
        survivors = plan_survivors(keep, length, left, left_padded)
        sequence_ids = survivors.take(sequence_ids, -1)
        return PrunedInputs(
            visual=self.pool(vision, video_token_pooling, sum(self.kept_windows(layout))),
            vision=vision,
            survivors=survivors,
            input_ids=survivors.take(input_ids, 0),
            attention_mask=survivors.valid.long(),
            position_ids=self.positions(survivors, position_ids, sequence_ids),
            mm_token_type_ids=survivors.take(mm_token_type_ids, 0),
            sequence_ids=sequence_ids,
        )

    def positions(
        self, survivors: Survivors, position_ids: Tensor | None, sequence_ids: Tensor | None
    ) -> Tensor:
        """(B, L_kept) positions of the survivors, as the settings say."""
        if self.stts.position_ids == "compact":
            return compact_positions(survivors.valid, sequence_ids)
        if position_ids is None:
            position_ids = torch.arange(survivors.keep.shape[1], device=survivors.keep.device)
        return survivors.take(position_ids.expand_as(survivors.keep), 0)

    def pool(self, vision: PrunedFeatures, pooling: Tensor, num_kept: int) -> Tensor:
        """Pool each kept window into one LLM token, in frame order.

        pooling: (F * W, p * p) int64, the patches of every window as flat numbers, -1 where a grid was padded;
        num_kept: windows kept. Returns (num_kept, D_llm).
        """
        features = torch.cat([vision.hidden_states[layer] for layer in self.feature_layers], -1)  # (K, D')
        kept = vision.keep.flatten().logical_not().byte().argsort(stable=True)[:num_kept]
        patches = pooling[kept]  # (num_kept, p * p)
        places = torch.where(patches >= 0, vision.packing.positions()[patches.clamp(0)], -1)
        adapter = self.multi_modal_projector
        if self.num_windows * patches.shape[1] != vision.packing.shape[1]:  # a padded grid needs its mask
            return adapter(features, places).last_hidden_state
        windows = features[places]  # (num_kept, p * p, D')
        pooled, _ = adapter.image_pooling_2d(windows.mean(1, keepdim=True), windows)
        return adapter.image_projector(pooled.squeeze(1))

    def embed(self, pruned: PrunedInputs) -> Tensor:
        """Word embeddings of the surviving tokens, visual features added at their placeholders: (B, L_kept, D)."""
        embeds = self.get_input_embeddings()(pruned.input_ids)
        placeholder = (pruned.input_ids == self.config.image_token_id).flatten()
        places = placeholder.logical_not().byte().argsort(stable=True)[: len(pruned.visual)]
        visual = pruned.visual.to(embeds.dtype)
        return embeds.flatten(0, 1).index_add(0, places, visual).view_as(embeds)


def to_float(pixels: Tensor) -> Tensor:
    """Patches as the tower takes them: uint8 ones normalised, others as they are."""
    return normalize(pixels) if pixels.dtype == torch.uint8 else pixels
