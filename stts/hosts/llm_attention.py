"""The LLM's attention: causal, among visual tokens in both directions, the examples of a packed row apart.

"block_sparse" runs flex attention over blocks where a whole sequence goes in, in training and in the prompt, and
SDPA for the steps of generation. Of the others "sdpa" and "eager" hold such a mask as (L, L) entries, and
FlashAttention cannot hold it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface, Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ..pruning.flex import block_mask, flex

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
