"""Molmo2 that drops video tokens once, early, for the rest of the ViT, the adapter and the LLM.

Only what pruning changes is written here; embeddings, blocks, adapter, LLM and generation are transformers' own,
and with nothing to prune transformers' own forward runs untouched.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike

import torch
from torch import Tensor
from transformers import Molmo2Config, Molmo2ForConditionalGeneration
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.masking_utils import create_causal_mask
from transformers.models.molmo2.modeling_molmo2 import (
    Molmo2CausalLMOutputWithPast,
    Molmo2PreTrainedModel,
)

from .config import STTSConfig
from .generation import PrunedGeneration
from .layout import BatchLayout
from .losses import novelty, score_error
from .molmo2_backbone import PrunedInputs, STTSMolmo2Model


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


class STTSMolmo2ForConditionalGeneration(PrunedGeneration, Molmo2ForConditionalGeneration):
    """transformers' Molmo2ForConditionalGeneration, pruning the video tokens of every batch.

    config: transformers' Molmo2Config; config.stts holds the STTSConfig as a dict (defaults when absent). Saved
    folders load in plain transformers too, which ignores the scorer.
    """

    def __init__(self, config: Molmo2Config) -> None:
        if not isinstance(getattr(config, "stts", None), dict):
            config.stts = STTSConfig().to_dict()
        Molmo2PreTrainedModel.__init__(self, config)  # the parent's would build a second, plain Molmo2Model
        self.model = STTSMolmo2Model(config)
        self.lm_head = torch.nn.Linear(
            config.text_config.hidden_size, config.text_config.vocab_size, bias=False
        )
        self.vocab_size = config.text_config.vocab_size
        self.post_init()

    @classmethod
    def from_pretrained(
        cls, path: str | PathLike, *args, stts: STTSConfig | None = None, **kwargs
    ) -> STTSMolmo2ForConditionalGeneration:
        """Load plain Molmo2 weights (the scorer starts fresh) or a folder saved by this class (as saved).

        path: folder or hub id; stts: settings to use instead of the saved or default ones; the rest as in
        transformers.
        """
        if stts is not None:
            config = kwargs.pop("config", None) or Molmo2Config.from_pretrained(
                path,
                **{
                    k: kwargs[k]
                    for k in ("revision", "cache_dir", "token", "local_files_only")
                    if k in kwargs
                },
            )
            config.stts = stts.to_dict()
            kwargs["config"] = config
        return super().from_pretrained(path, *args, **kwargs)

    @property
    def stts(self) -> STTSConfig:
        """The active settings. Assign another at any time; the scorer itself keeps its size."""
        return self.model.stts

    @stts.setter
    def stts(self, stts: STTSConfig) -> None:
        self.model.stts = stts
        self.config.stts = stts.to_dict()

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict | None = None, **kwargs
    ) -> None:
        """As in transformers. Raises ValueError on use_reentrant=True, which loses the gradient of the key bias."""
        options = {"use_reentrant": False} | (gradient_checkpointing_kwargs or {})
        if options["use_reentrant"]:
            raise ValueError("gradient checkpointing of a pruning model needs use_reentrant=False")
        super().gradient_checkpointing_enable(gradient_checkpointing_kwargs=options, **kwargs)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        video_token_pooling: Tensor | None = None,
        video_grids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        sequence_ids: Tensor | None = None,
        layout: BatchLayout | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs,
    ) -> STTSOutput:
        """transformers' Molmo2 forward on the tokens that survive.

        input_ids, attention_mask, position_ids, mm_token_type_ids, labels: (B, L), placeholders of ALL windows in
        input_ids; pixel_values_videos: (F, N, patch pixels), normalised, or uint8; video_token_pooling:
        (F * W, p * p); video_grids: (V, 3). sequence_ids: (B, L) int, the example each token of a packed row
        belongs to, -1 padding; layout: the batch's sizes, which on a GPU saves waiting for them. Images and text
        pass as in transformers. Raises ValueError when the placeholders do not fit the videos.
        """
        self._no_flash_packing(sequence_ids)
        text = (attention_mask, position_ids, mm_token_type_ids)
        pruned = None
        if pixel_values_videos is not None:
            layout = layout or self.model.layout_of(input_ids, attention_mask, video_grids)
            if self.model.prunes(layout):
                videos = (pixel_values_videos, video_token_pooling)
                pruned = self.model.prune(input_ids, *videos, layout, *text, sequence_ids)
        if pruned is None:
            inputs = {
                "input_ids": input_ids,
                "pixel_values_videos": pixel_values_videos,
                "video_token_pooling": video_token_pooling,
                "video_grids": video_grids,
            }
        else:
            inputs = {"inputs_embeds": self.model.embed(pruned)}
            text = (pruned.attention_mask, pruned.position_ids, pruned.mm_token_type_ids)
            sequence_ids, labels = pruned.sequence_ids, pruned.survivors.take(labels, -100)
        mask, positions, types = text
        if mask is None and kwargs.get("mm_encoder_outputs"):
            # generate drops a mask of ones; without one, transformers takes gaps in the positions for packing
            mask = torch.ones_like(input_ids)
        if sequence_ids is not None:
            mask = self._packed_mask(sequence_ids, types)
        inputs |= {"attention_mask": mask, "position_ids": positions, "mm_token_type_ids": types}
        outputs = super().forward(**inputs, labels=labels, logits_to_keep=logits_to_keep, **kwargs)
        return self._finish(outputs, pruned, layout, input_ids, attention_mask)

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
        if pruned is None or self.stts.policy != "scorer":
            parameters = self.model.vision_tower.scorer.parameters()
            return sum((p.float().sum() * 0 for p in parameters), torch.zeros((), device=self.device)), None
        scored = pruned.vision.scored.detach() if self.stts.detach_targets else pruned.vision.scored
        targets = novelty(scored, self.stts.pool_width, self.model.vision_tower.grid)
        across = self.stts.aux_across_videos
        loss = score_error(pruned.vision.scores, targets, layout.frames_per_video, across)
        return loss, targets.detach()

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

    def _no_flash_packing(self, sequence_ids: Tensor | None) -> None:
        implementation = self.config.get_text_config()._attn_implementation or ""
        if sequence_ids is not None and "flash" in implementation:
            raise ValueError(
                f"packed rows need a mask that {implementation} cannot take; load the model with "
                "attn_implementation='sdpa' or set train.max_tokens=null"
            )


# transformers converts the released key layout only for classes it knows by name
register_checkpoint_conversion_mapping(
    STTSMolmo2ForConditionalGeneration.__name__, get_checkpoint_conversion_mapping("molmo2"), overwrite=True
)
