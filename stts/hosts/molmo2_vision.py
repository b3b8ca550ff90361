"""Molmo2's vision tower, adapter and placeholders, with dropped windows gone from all three."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Molmo2Config, Molmo2Model
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.molmo2.modeling_molmo2 import (
    Molmo2Adapter,
    Molmo2PreTrainedModel,
    Molmo2TextModel,
    Molmo2VisionConfig,
    Molmo2VisionModel,
)

from ..data.video.pixels import normalize
from ..pruning.attention import install
from ..pruning.config import STTSConfig
from ..pruning.layout import BatchLayout
from ..pruning.policies import View, choose
from ..pruning.run import Blocks, Clips, Run
from ..pruning.sequence import Survivors, compact_positions, keep_tokens, plan_survivors
from ..pruning.visual_tokens import VisualTokens
from ..pruning.vit import PrunedFeatures, build_scorer
from ..pruning.windows import Grid, check_frames, window_grid, window_index
from .images import check_image_tokens, in_placeholder_order, video_placeholders
from .sizes import POOL_WIDTH
from .vision import Molmo2Vision


@dataclass(frozen=True)
class PrunedInputs:
    """A batch whose videos were encoded and pruned: what the LLM takes."""

    visual: Tensor
    """(K, D) LLM features of kept windows and of images, in the order of their placeholders."""
    vision: VisualTokens
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
        sizes = (config.hidden_size, config.num_attention_heads, config.num_hidden_layers)
        self.scorer = build_scorer(*sizes, stts.for_windows(POOL_WIDTH))
        self.scorer_bias = stts.scorer_bias
        self.layers = Blocks(self.layers)
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
        self,
        pixels: Tensor,
        stts: STTSConfig,
        frames_per_video: tuple[int, ...],
        layers: list[int],
        window_scores: Tensor | None = None,
    ) -> PrunedFeatures:
        """(F, N, patch pixels), uint8 or normalised -> what blocks `layers` say of the surviving patches."""
        check_frames(len(pixels), frames_per_video)
        clips = Clips(tuple(frames_per_video), (self.grid,) * len(frames_per_video), POOL_WIDTH)
        stts = stts.for_windows(POOL_WIDTH)
        run, x = (
            Run(Molmo2Vision(self), clips, stts, self.scorer, window_scores, layers),
            self.embed_patches(pixels),
        )
        with run.active():
            for block in self.layers:
                x = block(x, None)
        (found,) = run.groups
        return PrunedFeatures(run.collected, run.kept_packing, found.keep, found.scores, found.scored)

    def encode_dense(self, pixels: Tensor, layers: list[int]) -> dict[int, Tensor]:
        """The same where nothing is dropped in the ViT: what each of those blocks says, (F, N, D)."""
        x, collected = self.embed_patches(pixels), {}
        for i, block in enumerate(self.layers):
            x = block(x, None)
            if i in layers:  # held on to, a feature of every patch is costly
                collected[i] = x
        return collected

    def embed_patches(self, pixels: Tensor) -> Tensor:
        """(F, N, patch pixels), uint8 or normalised -> (F, N, D)."""
        install(self.config)
        x = self.patch_embedding(to_float(pixels).to(self.dtype))
        return x + self.positional_embedding.to(x)


class STTSMolmo2Model(Molmo2Model):
    """transformers' Molmo2Model around an STTSVisionModel."""

    def __init__(self, config: Molmo2Config) -> None:
        Molmo2PreTrainedModel.__init__(self, config)  # the parent's would build the plain vision tower first
        self.stts = STTSConfig.from_dict(config.stts).for_windows(POOL_WIDTH)
        self.lockstep = False
        """Run the same modules in the same order whatever the batch holds: sharded weights are gathered together."""
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

    def get_image_features(
        self, pixel_values: Tensor, image_token_pooling: Tensor, image_grids: Tensor, **kwargs
    ):
        """As transformers' own; uint8 pixels are normalised here, on the device."""
        return super().get_image_features(to_float(pixel_values), image_token_pooling, image_grids, **kwargs)

    def layout_of(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        video_grids: Tensor,
        image_grids: Tensor | None = None,
    ) -> BatchLayout:
        """The batch's sizes, for callers that did not keep them."""
        videos = video_placeholders(input_ids, self.config, image_grids is not None)
        layout = BatchLayout.from_tensors(videos, attention_mask, video_grids, self.num_windows)
        if image_grids is not None:
            check_image_tokens(input_ids, videos, image_grids, self.config)
        return layout

    def kept_windows(self, layout: BatchLayout) -> list[int]:
        """Windows each video keeps."""
        return layout.kept_windows(self.num_windows, self.stts.prune_ratio)

    def prunes(self, layout: BatchLayout) -> bool:
        """Whether any video of the batch loses a window."""
        return sum(self.kept_windows(layout)) < sum(layout.frames_per_video) * self.num_windows

    def idle(self) -> Tensor:
        """() zero that has been through ViT, scorer and adapter: what a process without a video does in lockstep."""
        tower = self.vision_tower
        pixels = torch.zeros(1, math.prod(tower.grid), tower.patch_embedding.in_features, device=self.device)
        pooling = window_index(tower.grid, self.stts.pool_width).to(self.device)  # (W, p * p)
        if self.stts.prune_ratio:  # of one frame nothing is dropped
            layout = BatchLayout((1,), (self.num_windows,), (0,))
            visual = self.encode_videos(pixels, pooling, layout, torch.zeros(1, self.num_windows))
            return visual.features.sum() * 0 + visual.scores.sum() * 0
        return self.encode_all(pixels, pooling).sum() * 0

    def encode_videos(
        self,
        pixel_values_videos: Tensor,
        video_token_pooling: Tensor,
        layout: BatchLayout,
        window_scores: Tensor | None = None,
    ) -> VisualTokens:
        """Encode, prune and pool videos, of which at least one loses a window.

        window_scores: (F, W), what policy "given" ranks windows by.
        """
        num_kept = sum(self.kept_windows(layout))
        if self.stts.stage == "llm":
            return self._encode_then_prune(pixel_values_videos, video_token_pooling, layout, num_kept)
        vision = self.vision_tower.encode(
            pixel_values_videos, self.stts, layout.frames_per_video, self.feature_layers, window_scores
        )
        features = self.pool(vision, video_token_pooling, num_kept)
        return VisualTokens(features, vision.keep, vision.scores, vision.scored)

    def _encode_then_prune(
        self, pixels: Tensor, pooling: Tensor, layout: BatchLayout, num_kept: int
    ) -> VisualTokens:
        """Make the LLM's tokens of all windows, for policies that choose among those."""
        tokens = self.encode_all(pixels, pooling)
        windows = tokens.unflatten(0, (-1, self.num_windows))
        grid = window_grid(self.vision_tower.grid, self.stts.pool_width)
        keep, scores = choose(View(windows, layout.frames_per_video, grid, 1, self.stts))
        return VisualTokens(tokens.index_select(0, kept_first(keep)[:num_kept]), keep, scores)

    def encode_all(self, pixels: Tensor, pooling: Tensor) -> Tensor:
        """The LLM's tokens of all windows, (F * W, D), bit for bit those of get_video_features. That one waits, for
        sizes that the caller may know and to learn which windows have a patch: those of videos all do."""
        hidden = self.vision_tower.encode_dense(pixels, self.feature_layers)
        return self.project(torch.cat([hidden[x] for x in self.feature_layers], -1).flatten(0, 1), pooling)

    def prune(
        self,
        input_ids: Tensor,
        pixel_values_videos: Tensor | None,
        video_token_pooling: Tensor | None,
        layout: BatchLayout,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        sequence_ids: Tensor | None = None,
        images: dict[str, Tensor] | None = None,
        left: bool | None = None,
        visual: VisualTokens | None = None,
        window_scores: Tensor | None = None,
    ) -> PrunedInputs:
        """Encode the videos, drop windows, and take their placeholders out of the sequence.

        Arguments as in STTSMolmo2ForConditionalGeneration.forward; images: its image arguments, encoded whole;
        left: side of the padding, None for that of the input; visual: the videos, encoded before.
        """
        vision = visual or self.encode_videos(pixel_values_videos, video_token_pooling, layout, window_scores)
        vision.check(sum(self.kept_windows(layout)))
        of_video = video_placeholders(input_ids, self.config, bool(images))
        keep = keep_tokens(of_video, vision.keep, attention_mask)
        length = max(layout.kept_lengths(self.num_windows, self.stts.prune_ratio))
        left_padded = None if attention_mask is None else attention_mask[:, 0] == 0
        survivors = plan_survivors(keep, length, left, left_padded)
        sequence_ids, tokens = survivors.take(sequence_ids, -1), survivors.take(input_ids, 0)
        features = self.with_images(vision.features, images, tokens) if images else vision.features
        return PrunedInputs(
            visual=features,
            vision=vision,
            survivors=survivors,
            input_ids=tokens,
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
        patches = pooling[kept_first(vision.keep)[:num_kept]]  # (num_kept, p * p)
        places = vision.packing.positions()[patches.clamp(0)]
        return self.project(features, torch.where(patches >= 0, places, -1))

    def project(self, features: Tensor, patches: Tensor) -> Tensor:
        """The adapter: (K, D') patches -> (n, D_llm), one token for each row of patches, (n, p * p) places among
        the K, -1 where a grid was padded; none is all padding."""
        adapter, (height, width) = self.multi_modal_projector, self.vision_tower.grid
        install(adapter.config)
        if self.num_windows * patches.shape[1] == height * width:
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

    def with_images(self, videos: Tensor, images: dict[str, Tensor], input_ids: Tensor) -> Tensor:
        """(K, D) features of videos -> those and the images', in the order of their placeholders in input_ids."""
        features = torch.cat(self.get_image_features(**images).pooler_output)
        of_video = video_placeholders(input_ids, self.config, with_images=True)
        return in_placeholder_order(videos, features, input_ids == self.config.image_token_id, of_video)

    def encode_whole(
        self,
        input_ids: Tensor,
        videos: dict[str, Tensor],
        images: dict[str, Tensor],
        visual: VisualTokens | None = None,
    ) -> Tensor:
        """(K, D) features of videos and images, nothing pruned, in the order of their placeholders."""
        if visual is None:
            features = self.encode_all(videos["pixel_values_videos"], videos["video_token_pooling"])
        else:
            visual.check(visual.keep.numel())
            features = visual.features
        return self.with_images(features, images, input_ids) if images else features

    def embed(self, input_ids: Tensor, visual: Tensor) -> Tensor:
        """Word embeddings of (B, L) tokens, visual features (K, D) added at their placeholders: (B, L, D)."""
        embeds = self.get_input_embeddings()(input_ids)
        placeholder = (input_ids == self.config.image_token_id).flatten()
        places = placeholder.logical_not().byte().argsort(stable=True)[: len(visual)]
        return embeds.flatten(0, 1).index_add(0, places, visual.to(embeds.dtype)).view_as(embeds)


def kept_first(keep: Tensor) -> Tensor:
    """(F, W) bool -> (F * W,) window numbers, kept ones first, each in order."""
    return keep.flatten().logical_not().byte().argsort(stable=True)


def to_float(pixels: Tensor) -> Tensor:
    """Patches as the tower takes them: uint8 ones normalised, others as they are."""
    return normalize(pixels) if pixels.dtype == torch.uint8 else pixels
