"""The LLM's attention: causal, in some hosts among visual tokens in both directions, examples of a packed row apart.

"block_sparse" runs flex attention over blocks where a whole sequence goes in, in training and in the prompt, and
SDPA for the steps of generation. Of the others "sdpa" and "eager" hold such a mask as (L, L) entries, and
FlashAttention cannot hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface, Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import create_causal_mask, sdpa_mask

from ..pruning.flex import block_mask, flex
from .base import Host

BLOCK_SPARSE = "block_sparse"


def choose_llm_attention(asked: str | None = None, device: torch.device | str = "cpu") -> str:
    """The LLM's attn_implementation: the one asked for; None or "auto": "block_sparse" on CUDA, else "sdpa"."""
    if asked not in (None, "auto"):
        return asked
    return BLOCK_SPARSE if torch.device(device).type == "cuda" else "sdpa"


def block_sparse_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | BlockMask | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[Tensor, None]:
    """transformers' attention signature: query, key, value (B, heads, L, head_dim) -> (B, L, heads, head_dim)."""
    if not isinstance(attention_mask, BlockMask):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if dropout:
        raise ValueError(
            f"attention_dropout is {dropout}, which {BLOCK_SPARSE} attention does not have; set it to 0"
        )
    out = flex(query, key, value, attention_mask, scaling, module.training)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(BLOCK_SPARSE, block_sparse_attention)
AttentionMaskInterface.register(BLOCK_SPARSE, sdpa_mask)


def llm_block_mask(
    mask: Tensor | None, types: Tensor | None, sequence_ids: Tensor | None, cache: Cache | None
) -> BlockMask | None:
    """The mask of a whole sequence; None where only transformers knows it (a step with a cache, a mask of its own).

    mask: (B, L), 1 at tokens; types: (B, L), 1 at visual tokens; sequence_ids: (B, L), -1 at padding. Padding sees
    padding alone.
    """
    segments = mask if sequence_ids is None else sequence_ids
    if (
        not isinstance(segments, Tensor)
        or segments.ndim != 2
        or (cache is not None and cache.get_seq_length() > 0)
    ):
        return None
    free = torch.zeros_like(segments, dtype=torch.bool) if types is None else types == 1
    return block_mask(segments.int(), free)


def llm_mask(
    model: nn.Module,
    mask: Tensor | None,
    sequence_ids: Tensor | None,
    inputs: dict[str, Any],
    lengths: Sequence[int] | None = None,
) -> Tensor | BlockMask | None:
    """The LLM's mask, where it is ours to make, as its attention takes it; else the one given.

    mask: (B, L), 1 at tokens, or one that somebody made; sequence_ids: (B, L), -1 at padding; inputs: of the
    host's forward; lengths: tokens of each row, if known.
    """
    host, ids = model.host, inputs.get("input_ids")
    if mask is None and ids is not None and inputs.get("mm_encoder_outputs"):
        # generate drops a mask of ones; without one, transformers takes gaps in the positions for packing
        mask = torch.ones_like(ids)
    if sequence_ids is None and not host.both_ways:
        return mask if lengths is None else padding_mask(model, mask, lengths, inputs)
    types = inputs.get("mm_token_type_ids") if host.both_ways else None
    if model.config.get_text_config()._attn_implementation == BLOCK_SPARSE:
        blocks = llm_block_mask(mask, types, sequence_ids, inputs.get("past_key_values"))
        return mask if blocks is None else blocks
    return mask if sequence_ids is None else packed_mask(model, sequence_ids, types)


def padding_mask(
    model: nn.Module, mask: Tensor | None, lengths: Sequence[int], inputs: dict[str, Any]
) -> Tensor | None:
    """The mask of a causal LLM whose rows are known to have so many tokens; None: there is no padding.

    transformers would wait for the device to see that. It does in what is left: where layers make masks of their own,
    and with padding under FlashAttention.
    """
    config, planes = model.config.get_text_config(), inputs.get("position_ids")
    known = mask is not None and mask.ndim == 2 and inputs.get("past_key_values") is None
    if not known or planes is None or planes.ndim != 3 or len(planes) != 3:  # others tell packed rows
        return mask
    if set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
        return mask
    if min(lengths) == mask.shape[1]:
        return None
    if config._attn_implementation not in ("sdpa", BLOCK_SPARSE):
        return mask
    embeds = torch.empty(*mask.shape, 0, dtype=model.dtype, device=mask.device)
    return create_causal_mask(config, embeds, mask, None, allow_is_causal_skip=False)


def packed_mask(model: nn.Module, sequence_ids: Tensor, types: Tensor | None) -> Tensor:
    """Causal within an example, among visual tokens (types 1) in both directions, nothing across examples."""

    def same_sequence(batch_idx, head_idx, q_idx, kv_idx):
        return sequence_ids[batch_idx, q_idx] == sequence_ids[batch_idx, kv_idx]

    return create_causal_mask(
        config=model.config.get_text_config(),
        inputs_embeds=torch.empty(*sequence_ids.shape, 0, dtype=model.dtype, device=sequence_ids.device),
        attention_mask=None,
        past_key_values=None,
        and_mask_function=same_sequence,
        block_sequence_ids=None if types is None else torch.where(types == 1, sequence_ids, -1),
    )


def check_masks(model: nn.Module, sequence_ids: Tensor | None, has_visual: bool) -> None:
    """Raises ValueError where the LLM would forget, silently, what a batch needs of its mask."""
    host, config = model.host, model.config.get_text_config()
    implementation = config._attn_implementation or ""
    if "flash" in implementation and (sequence_ids is not None or (has_visual and host.both_ways)):
        raise ValueError(
            f"visual tokens and packed rows need a mask that {implementation} cannot take; load the model with "
            f"attn_implementation={BLOCK_SPARSE!r} or 'sdpa'"
        )
    if sequence_ids is not None and (why := cannot_pack(host, config)):
        raise ValueError(
            f"sequence_ids are given, but a {type(model).base.__name__} takes no packed rows: {why}"
        )


def cannot_pack(host: Host, config: Any) -> str:
    """Why examples cannot share a row of a host's LLM; "": they can."""
    if host.mrope:
        return "its positions have three planes, which are counted through a whole row"
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if "linear_attention" in kinds:
        return "what its recurrent layers remember runs on from one example to the next"
    if kinds:
        return f"its layers of {', '.join(sorted(kinds))} make masks of their own"
    return ""
