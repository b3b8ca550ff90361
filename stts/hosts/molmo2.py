"""Molmo2 that drops video tokens once, early, for the rest of the ViT, the adapter and the LLM.

Only what pruning changes is written here; embeddings, blocks, adapter, LLM and generation are transformers' own,
and with nothing to prune transformers' own forward runs untouched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import Molmo2Config, Molmo2ForConditionalGeneration, Molmo2Model
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.masking_utils import create_causal_mask
from transformers.models.molmo2.modeling_molmo2 import (
    Molmo2CausalLMOutputWithPast,
    Molmo2PreTrainedModel,
    Molmo2VisionModel,
)

from ..data.processors.molmo2 import check_frame_size
from ..pruning.attention import uninstall
from ..pruning.config import STTSConfig
from ..pruning.layout import BatchLayout
from ..pruning.losses import novelty, score_error, weighted_lm_loss
from ..pruning.run import Blocks, Clips
from ..pruning.scorer import STTSScorer
from ..pruning.visual_tokens import VisualTokens
from ..pruning.vit import build_scorer
from .base import Host
from .generation import PrunedGeneration, as_encoded
from .images import IMAGE_KEYS, VIDEO_KEYS, video_placeholders
from .llm_attention import BLOCK_SPARSE, llm_block_mask
from .molmo2_vision import PrunedInputs, STTSMolmo2Model, STTSVisionModel
from .pruned import PrunedModel, become, started
from .sizes import POOL_WIDTH
from .supervised import supervised_alone


@dataclass
class STTSOutput(Molmo2CausalLMOutputWithPast):
    """transformers' output over the surviving sequence, and what pruning did.

    loss: lm_loss, plus aux_loss_weight * aux_loss in training mode; logits: (B, L_kept, V), padded on the side the
    input was; keep_mask: (B, L) bool, True where a real input token survived, so row i of logits belongs to
    input_ids[i][keep_mask[i]]; keep_windows: (F, W) bool and scores: (F, W), None when nothing was pruned;
    targets: (F, W), what the auxiliary loss holds the scores against; lm_loss, aux_loss: scalars.
    """

    keep_mask: Tensor | None = None
    keep_windows: Tensor | None = None
    scores: Tensor | None = None
    targets: Tensor | None = None
    lm_loss: Tensor | None = None
    aux_loss: Tensor | None = None


class Molmo2(Host):
    """Molmo2ForConditionalGeneration: frames of one size, whose windows of 3 x 3 patches an attention pools."""

    blocks_at = "layers"
    adapter_at = (  # called one by one, not through the adapter
        "model.multi_modal_projector.image_pooling_2d",
        "model.multi_modal_projector.image_projector",
    )
    keys = VIDEO_KEYS

    @classmethod
    def check_config(cls, config: Molmo2Config, where: str | PathLike) -> None:
        check_frame_size(config.vision_config, where)

    @property
    def unit(self) -> int:
        return POOL_WIDTH

    @property
    def token_id(self) -> int:
        return self.model.config.image_token_id

    def clips(self, inputs: dict[str, Any]) -> Clips:
        config = self.vision.config
        grid = tuple(side // config.patch_size for side in config.image_size)
        frames = inputs["video_grids"][:, 0].tolist()
        return Clips(tuple(frames), (grid,) * len(frames), self.unit)

    def placeholders(self, input_ids: Tensor, inputs: dict[str, Any]) -> Tensor:
        return video_placeholders(input_ids, self.model.config, inputs.get("image_grids") is not None)


class STTSMolmo2ForConditionalGeneration(PrunedGeneration, PrunedModel, Molmo2ForConditionalGeneration):
    """transformers' Molmo2ForConditionalGeneration, pruning the video tokens of every batch.

    config: transformers' Molmo2Config; config.stts holds the STTSConfig as a dict (defaults when absent). Saved
    folders load in plain transformers too, which ignores the scorer.
    """

    host_type = Molmo2
    base = Molmo2ForConditionalGeneration

    def __init__(self, config: Molmo2Config) -> None:
        saved = getattr(config, "stts", None)
        stts = STTSConfig.from_dict(saved) if isinstance(saved, dict) else STTSConfig()
        stts.for_windows(POOL_WIDTH)  # or say now that another is asked for
        config.stts = stts.to_dict()
        Molmo2PreTrainedModel.__init__(self, config)  # the parent's would build a second, plain Molmo2Model
        self.model = STTSMolmo2Model(config)
        self.lm_head = torch.nn.Linear(
            config.text_config.hidden_size, config.text_config.vocab_size, bias=False
        )
        self.vocab_size = config.text_config.vocab_size
        self.post_init()

    initialize_weights = (
        Molmo2ForConditionalGeneration.initialize_weights
    )  # the tower knows how its scorer starts

    def _adopt(self, stts: STTSConfig) -> None:
        tower = self.model.vision_tower
        scorer = build_scorer(*self.host.dims, len(tower.layers), self.host.settle(stts))
        become(tower, STTSVisionModel)
        become(self.model, STTSMolmo2Model)
        tower.scorer, tower.scorer_bias = started(scorer, stts.scorer_bias, like=tower), stts.scorer_bias
        tower.layers = Blocks(tower.layers)
        self.model.lockstep, self.stts = False, stts

    def _release(self) -> STTSScorer:
        scorer, tower = super()._release(), self.model.vision_tower
        uninstall(self.model.multi_modal_projector.config)
        become(tower, Molmo2VisionModel)
        become(self.model, Molmo2Model)
        for module, names in ((tower, ("scorer_bias",)), (self.model, ("stts", "lockstep"))):
            for name in names:
                delattr(module, name)
        return scorer

    @property
    def stts(self) -> STTSConfig:
        """The active settings. Assign another at any time; the scorer itself keeps its size."""
        return self.model.stts

    @stts.setter
    def stts(self, stts: STTSConfig) -> None:
        self.model.stts = stts.for_windows(POOL_WIDTH)
        self.config.stts = stts.to_dict()

    def encode_videos(
        self,
        pixel_values_videos: Tensor,
        video_token_pooling: Tensor,
        video_grids: Tensor,
        window_scores: Tensor | None = None,
    ) -> VisualTokens:
        """Videos as `visual`, which forward and generate take in place of their pixels: encoded, pruned and pooled
        once, however many questions follow. Without gradients what only the auxiliary loss needs is left out."""
        layout = BatchLayout(tuple(video_grids[:, 0].tolist()), (), ())
        if self.model.prunes(layout):
            clips = (pixel_values_videos, video_token_pooling)
            visual = self.model.encode_videos(*clips, layout, window_scores)
            return visual if torch.is_grad_enabled() else replace(visual, scored=None)
        videos = self.model.get_video_features(pixel_values_videos, video_token_pooling, video_grids)
        shape = sum(layout.frames_per_video), self.model.num_windows
        keep = torch.ones(shape, dtype=torch.bool, device=self.device)
        return VisualTokens(torch.cat(videos.pooler_output), keep)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        video_token_pooling: Tensor | None = None,
        video_grids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_token_pooling: Tensor | None = None,
        image_grids: Tensor | None = None,
        image_num_crops: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        sequence_ids: Tensor | None = None,
        layout: BatchLayout | None = None,
        logits_to_keep: int | Tensor = 0,
        visual: VisualTokens | None = None,
        loss_weights: Tensor | None = None,
        window_scores: Tensor | None = None,
        num_targets: int | None = None,
        **kwargs,
    ) -> STTSOutput:
        """transformers' Molmo2 forward on the tokens that survive.

        input_ids, attention_mask, position_ids, mm_token_type_ids, labels: (B, L), placeholders of ALL windows in
        input_ids; pixel_values_videos: (F, N, patch pixels), normalised, or uint8; video_token_pooling:
        (F * W, p * p); video_grids: (V, 3). pixel_values, image_token_pooling, image_grids: images, as in
        transformers, also beside videos; they are never pruned. sequence_ids: (B, L) int, the example each token of
        a packed row belongs to, -1 padding; layout: the batch's sizes, which on a GPU saves waiting for them.
        visual: the videos, as encode_videos returns them, in place of their pixels and pooling. loss_weights: (B, L)
        float, what each token of labels counts in lm_loss. window_scores: (F, W), what policy "given" ranks windows
        by. num_targets: at least how many labels there are behind the first column: logits are made for these alone,
        (1, num_targets + 1, V).
        Raises ValueError when placeholders do not fit videos and images, or there are no scores to rank by.
        """
        self._no_flash(sequence_ids, pixel_values, pixel_values_videos, visual)
        text, known = (attention_mask, position_ids, mm_token_type_ids), layout is not None
        pruned, videos, images = None, {}, self._images(pixel_values, image_token_pooling, image_grids)
        if pixel_values_videos is not None or visual is not None:
            clips = (pixel_values_videos, video_token_pooling)
            videos = dict(zip(VIDEO_KEYS, (*clips, video_grids), strict=True))
            layout = layout or self.model.layout_of(input_ids, attention_mask, video_grids, image_grids)
        if not videos or not self._takes_our_path(layout):
            inputs = self._whole_inputs(input_ids, videos, images, visual, known)
        else:
            of_batch = (input_ids, *clips, layout, *text, sequence_ids, images)
            pruned = self.model.prune(*of_batch, visual=visual, window_scores=window_scores)
            inputs = {"inputs_embeds": self.model.embed(pruned.input_ids, pruned.visual)}
            text = (pruned.attention_mask, pruned.position_ids, pruned.mm_token_type_ids)
            sequence_ids, labels = pruned.sequence_ids, pruned.survivors.take(labels, -100)
            loss_weights = pruned.survivors.take(loss_weights, 0)
        mask = self._mask(text[0], text[2], sequence_ids, input_ids, kwargs)
        inputs |= {"attention_mask": mask, "position_ids": text[1], "mm_token_type_ids": text[2]}
        with supervised_alone(self.lm_head, labels, loss_weights, num_targets) as (labels, loss_weights):
            inputs["labels"] = labels if loss_weights is None else None
            outputs = super().forward(**inputs, logits_to_keep=logits_to_keep, **kwargs)
            if loss_weights is not None:
                outputs.loss = weighted_lm_loss(outputs.logits, labels, loss_weights)
        return self._finish(outputs, pruned, layout, input_ids, attention_mask)

    def _images(self, *tensors: Tensor | None) -> dict[str, Tensor | None]:
        """Tensors of images by name (IMAGE_KEYS), {} without pixels. Raises ValueError in a sharded model."""
        if tensors[0] is None:
            return {}
        if self.model.lockstep:
            raise ValueError(
                "a sharded model takes videos and text, no images: train those with parallel=ddp"
            )
        return dict(zip(IMAGE_KEYS, tensors, strict=True))

    def _takes_our_path(self, layout: BatchLayout) -> bool:
        """Whether we encode the videos: where one loses a window, and on every device when they work in lockstep."""
        return self.model.prunes(layout) or bool(self.model.lockstep and self.stts.prune_ratio)

    def _whole_inputs(
        self,
        input_ids: Tensor | None,
        videos: Mapping[str, Tensor | None],
        images: Mapping[str, Tensor],
        visual: VisualTokens | None,
        known: bool,
    ) -> dict[str, Any]:
        """What transformers' own forward takes where nothing is dropped. known: whether the host knows the sizes of
        the videos, so that it need not wait where transformers would."""
        if self.model.lockstep and not videos:
            return {"inputs_embeds": self.get_input_embeddings()(input_ids) + self.model.idle()}
        if known and videos:
            encoded = self.model.encode_whole(input_ids, videos, images, visual)
            return {"inputs_embeds": self.model.embed(input_ids, encoded)}
        if visual is not None or (videos and images):  # which transformers refuses together
            encoded = self.model.encode_whole(input_ids, videos, images, visual)
            return {"input_ids": input_ids} | as_encoded([encoded])
        return {"input_ids": input_ids, **videos, **images}

    def _finish(
        self,
        outputs: Molmo2CausalLMOutputWithPast,
        pruned: PrunedInputs | None,
        layout: BatchLayout | None,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
    ) -> STTSOutput:
        """Add the auxiliary loss and what pruning did to transformers' output."""
        result = STTSOutput(**outputs, lm_loss=outputs.loss)
        if pruned is not None:
            result.keep_mask = pruned.survivors.keep
            result.keep_windows = pruned.vision.keep
            result.scores = pruned.vision.scores
        elif input_ids is not None:
            result.keep_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            result.keep_mask = result.keep_mask.bool()
        if self.training or outputs.loss is not None:
            result.aux_loss, result.targets = self._aux_loss(pruned, layout)
        if self.training and outputs.loss is not None:
            result.loss = outputs.loss + self.stts.aux_loss_weight * result.aux_loss
        return result

    def _aux_loss(
        self, pruned: PrunedInputs | None, layout: BatchLayout | None
    ) -> tuple[Tensor, Tensor | None]:
        """The temporal loss of the batch and its targets; without scores a zero that still holds the scorer's
        parameters, so that data-parallel ranks without a video take part in its gradient."""
        unscored = pruned is None or pruned.vision.scored is None or not self.model.prunes(layout)
        if unscored or self.stts.policy != "scorer":
            held = () if self.model.lockstep else self.model.vision_tower.scorer.parameters()
            return sum((p.float().sum() * 0 for p in held), torch.zeros((), device=self.device)), None
        scored = pruned.vision.scored.detach() if self.stts.detach_targets else pruned.vision.scored
        targets = novelty(scored, self.stts.pool_width, self.model.vision_tower.grid)
        across = self.stts.aux_across_videos
        loss = score_error(pruned.vision.scores, targets, layout.frames_per_video, across)
        return loss, targets.detach()

    def _mask(
        self,
        mask: Tensor | None,
        mm_token_type_ids: Tensor | None,
        sequence_ids: Tensor | None,
        input_ids: Tensor | None,
        others: Mapping[str, Any],
    ) -> Tensor | BlockMask | None:
        """The LLM's mask, where it is ours to make, as its attention takes it; else the one given.

        input_ids, others: of forward, with its past_key_values and mm_encoder_outputs.
        """
        if mask is None and others.get("mm_encoder_outputs"):
            # generate drops a mask of ones; without one, transformers takes gaps in the positions for packing
            mask = torch.ones_like(input_ids)
        if self.config.get_text_config()._attn_implementation == BLOCK_SPARSE:
            blocks = llm_block_mask(mask, mm_token_type_ids, sequence_ids, others.get("past_key_values"))
            return mask if blocks is None else blocks
        return mask if sequence_ids is None else self._packed_mask(sequence_ids, mm_token_type_ids)

    def _packed_mask(self, sequence_ids: Tensor, mm_token_type_ids: Tensor | None) -> Tensor:
        """Causal within an example, bidirectional among its visual tokens, nothing across examples."""
        blocks = None
        if mm_token_type_ids is not None:
            blocks = torch.where(mm_token_type_ids == 1, sequence_ids, -1)

        def same_sequence(batch_idx, head_idx, q_idx, kv_idx):
            return sequence_ids[batch_idx, q_idx] == sequence_ids[batch_idx, kv_idx]

        return create_causal_mask(
            config=self.config.get_text_config(),
            inputs_embeds=torch.empty(*sequence_ids.shape, 0, dtype=self.dtype, device=sequence_ids.device),
            attention_mask=None,
            past_key_values=None,
            and_mask_function=same_sequence,
            block_sequence_ids=blocks,
        )

    def _no_flash(self, *masked: Any) -> None:
        """FlashAttention would ignore the mask of visual tokens and of packed rows, silently: any of `masked`."""
        implementation = self.config.get_text_config()._attn_implementation or ""
        if "flash" in implementation and any(x is not None for x in masked):
            raise ValueError(
                f"visual tokens and packed rows need a mask that {implementation} cannot take; load the model with "
                f"attn_implementation={BLOCK_SPARSE!r} or 'sdpa'"
            )


Molmo2.written = STTSMolmo2ForConditionalGeneration
# transformers converts the released key layout only for classes it knows by name
register_checkpoint_conversion_mapping(
    STTSMolmo2ForConditionalGeneration.__name__, get_checkpoint_conversion_mapping("molmo2"), overwrite=True
)
