"""The pruned VLM: a transformers class whose videos lose windows once, for the rest of ViT, adapter and LLM.

PrunedVLM stands before the transformers class (classes.pruning makes the pair). The host's own vision model, adapter,
LLM and generate run; what is written here and in the files it imports is what happens between them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from ..pruning.layout import BatchLayout
from ..pruning.losses import weighted_lm_loss
from ..pruning.visual_tokens import VisualTokens
from .aux_loss import aux_loss
from .encoding import PerWindow, as_visual, clips_of, encode
from .generation import PrunedGeneration
from .llm_attention import check_masks, llm_mask
from .lockstep import check_images, still_beside
from .output import PrunedCausalOutput
from .pruned import PrunedModel
from .supervised import supervised_alone
from .survivors import Batch, Pruned, prune


class PrunedVLM(PrunedGeneration, PrunedModel):
    """What stands before a transformers VLM class: forward, generate, losses."""

    lockstep: bool = False
    """Run the same units in the same order whatever the batch holds: sharded weights are gathered together."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        sequence_ids: Tensor | None = None,
        layout: BatchLayout | None = None,
        window_scores: PerWindow | None = None,
        loss_weights: Tensor | None = None,
        visual: VisualTokens | None = None,
        num_targets: int | None = None,
        **inputs: Any,
    ) -> PrunedCausalOutput:
        """The transformers class's forward on the tokens that survive. It takes that one's inputs, by their names.

        input_ids: (B, L), like all arguments of that shape with the placeholders of ALL windows, dropped ones
        included. sequence_ids: (B, L) int, the example each token of a packed row belongs to, -1 padding. layout: the
        batch's sizes; without it a GPU is waited for. frames_per_video: T of each video, where pixels do not say it.
        Pixels may be bytes: they are normalised here. window_scores: (F, W), or (T, W) of each video, what policy
        "given" ranks by. loss_weights: (B, L) float, the weight of each label in lm_loss, a weighted mean. visual:
        the videos as encode_videos returns them, in place of their pixels. num_targets: an upper bound on the
        supervised tokens of labels, the first column not counted. Logits are then made in front of these alone, (1,
        num_targets + 1, V), and the loss over none is 0; without it that is NaN, as in transformers. Raises
        ValueError when placeholders do not fit videos and images, and for what a host cannot do (packed rows, a mask
        under FlashAttention).
        """
        inputs = self.host.accept(inputs)
        pixels = (inputs.get(self.host.keys[0]), inputs.get("pixel_values"))
        check_masks(self, sequence_ids, visual is not None or any(x is not None for x in pixels))
        check_images(self, inputs)
        text = (input_ids, attention_mask, position_ids, sequence_ids)
        pruned = prune(self, Batch(*text, layout, window_scores, visual), inputs)
        if pruned is None:
            inputs.pop("frames_per_video", None)
            inputs |= {"attention_mask": attention_mask, "position_ids": position_ids}
            inputs |= still_beside(self, input_ids, inputs) if self.lockstep else {"input_ids": input_ids}
        else:
            inputs = pruned.others | pruned.tokens
            sequence_ids = pruned.survivors.take(sequence_ids, -1)
            labels = pruned.survivors.take(labels, -100)
            loss_weights = pruned.survivors.take(loss_weights, 0)
        lengths = None if pruned is None else pruned.lengths
        inputs["attention_mask"] = llm_mask(self, inputs["attention_mask"], sequence_ids, inputs, lengths)
        as_tuple = inputs.pop("return_dict", None) is False
        inputs = {name: x for name, x in inputs.items() if x is not None}
        head, asked = self.get_output_embeddings(), (labels, loss_weights, num_targets)
        with supervised_alone(head, *asked) as (labels, loss_weights):
            out = super().forward(**inputs, labels=labels if loss_weights is None else None)
        if loss_weights is not None:
            out.loss = weighted_lm_loss(out.logits, labels, loss_weights)
        if pruned is not None and pruned.ahead is not None:
            self.base_model.rope_deltas = pruned.ahead
        result = self._finish(out, pruned, input_ids, attention_mask)
        return result.to_tuple() if as_tuple else result

    def encode_videos(
        self,
        *videos: Tensor,
        layout: BatchLayout | None = None,
        window_scores: PerWindow | None = None,
        **named: Tensor,
    ) -> VisualTokens:
        """Encode and prune videos once, however many questions follow. Returns `visual`, which forward and generate
        take in place of pixels.

        videos: as forward takes them, by name, or in the order of the host's keys. Without gradients, what only the
        auxiliary loss needs is left out.
        """
        given = self.host.accept(dict(zip(self.host.keys, videos, strict=False)) | named)
        clips = clips_of(self.host, given, layout)
        return as_visual(encode(self, given, clips, window_scores), clips)

    def _finish(
        self, out: ModelOutput, pruned: Pruned | None, input_ids: Tensor | None, mask: Tensor | None
    ) -> PrunedCausalOutput:
        """Add the auxiliary loss and what pruning did to transformers' output."""
        known = PrunedCausalOutput.__dataclass_fields__
        result = PrunedCausalOutput(**{name: x for name, x in out.items() if name in known})
        result.lm_loss = out.loss
        if pruned is not None:
            result.keep_mask = pruned.survivors.keep
            encoded = pruned.encoded
            result.keep_windows, result.scores = encoded.keep, encoded.scores
            result.relevance = encoded.relevance
        elif input_ids is not None:
            result.keep_mask = (torch.ones_like(input_ids) if mask is None else mask).bool()
        if self.training or out.loss is not None:
            videos = (None, None) if pruned is None else (pruned.encoded, pruned.clips)
            result.aux_loss, result.targets = aux_loss(self, *videos)
        if self.training and out.loss is not None:
            result.loss = out.loss + self.stts.aux_loss_weight * result.aux_loss
            if result.relevance is not None:
                result.loss = result.loss + self.stts.relevance_weight * result.relevance.loss
        return result
