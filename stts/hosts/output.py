"""What a pruning VLM returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput

from ..pruning.relevance import Relevance


@dataclass
class PrunedCausalOutput(ModelOutput):
    """transformers' output over the surviving sequence, and what pruning did.

    loss: lm_loss, plus aux_loss_weight * aux_loss and relevance_weight * relevance.loss in training mode; logits:
    (B, L_kept, V), padded on the side the input was; keep_mask: (B, L) bool, True where a real input token
    survived, so row i of logits belongs to input_ids[i][keep_mask[i]]; keep_windows: bool, scores and targets (what
    the auxiliary loss holds the scores against): (F, W), or where frames differ in size a list of (T, W), one a
    video; None when nothing was pruned; lm_loss, aux_loss: scalars; relevance: what the LLM's gradient teaches the
    scorer, None where the settings or the batch ask for nothing. The rest is transformers'.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Any = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    image_hidden_states: Any = None
    video_hidden_states: Any = None
    rope_deltas: Tensor | None = None
    router_logits: Any = None
    keep_mask: Tensor | None = None
    keep_windows: Tensor | list[Tensor] | None = None
    scores: Tensor | list[Tensor] | None = None
    targets: Tensor | list[Tensor] | None = None
    lm_loss: Tensor | None = None
    aux_loss: Tensor | None = None
    relevance: Relevance | None = None
