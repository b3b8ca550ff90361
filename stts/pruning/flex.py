"""flex attention, and its masks: which blocks of 128 x 128 tokens are looked at, and a rule inside a block.

A mask of L x L entries is never laid out, only one of (L / 128)^2 blocks, and no size is read from the device.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers.integrations.flex_attention import compile_friendly_flex_attention

BLOCK = 128
VARIANTS = 64
"""Times a function may be compiled: one row or more, shorter than a block or not, training or not, in ViT or LLM.
Past torch's own 8, flex attention would run unfused, with L x L entries a head, and not say so."""


def block_mask(segments: Tensor, free: Tensor | None = None) -> BlockMask:
    """Tokens see the earlier ones of their segment and themselves; free ones see all free ones of their segment.

    segments: (B, L) int, the segment of each token; free: (B, L) bool, or None: all are free, so that attention is
    within segments and nothing else. Returns a mask that stands for (B, 1, L, L).
    """
    free = torch.ones_like(segments, dtype=torch.bool) if free is None else free
    length = segments.shape[1]
    count = -(-length // BLOCK)
    place = torch.arange(count * BLOCK, device=segments.device).clamp(max=length - 1)
    low, high = segments[:, place].unflatten(1, (count, BLOCK)).aminmax(dim=2)  # (B, count)
    free_in = free[:, place].unflatten(1, (count, BLOCK))
    number = torch.arange(count, device=segments.device)
    inside = number < length // BLOCK  # the last block may hold fewer tokens
    one_segment = (low == high) & inside

    def pairs(
        q: Tensor, k: Tensor
    ) -> tuple[Tensor, Tensor]:  # (..., count) -> (..., count, 1), (..., 1, count)
        return q[..., :, None], k[..., None, :]

    overlap = torch.le(*pairs(low, high)) & torch.ge(*pairs(high, low))
    seen = overlap & (
        torch.ge(*pairs(number, number)) | torch.logical_and(*pairs(free_in.any(2), free_in.any(2)))
    )
    whole = torch.logical_and(*pairs(one_segment, one_segment)) & torch.eq(*pairs(low, low))
    whole &= torch.gt(*pairs(number, number)) | torch.logical_and(*pairs(free_in.all(2), free_in.all(2)))

    def rule(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (segments[b, q] == segments[b, k]) & ((k <= q) | (free[b, q] & free[b, k]))

    partial = seen & ~whole
    blocks = (*_listed(partial[:, None]), *_listed(whole[:, None]))
    return BlockMask.from_kv_blocks(*blocks, BLOCK_SIZE=BLOCK, mask_mod=rule, seq_lengths=(length, length))


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """(..., count, count) bool -> how many of each row, and which, those first: (..., count), (..., count, count)."""
    order = blocks.byte().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32), order.int()


def allow_variants() -> None:
    """Let a function be compiled VARIANTS times."""
    if not torch.compiler.is_compiling() and torch._dynamo.config.recompile_limit < VARIANTS:
        torch._dynamo.config.recompile_limit = VARIANTS


def flex(
    query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scaling: float, training: bool
) -> Tensor:
    """flex attention, (B, heads, L, head_dim) -> the same, of value's dtype; key and value may have fewer heads.

    Compiled on CUDA, unfused on a CPU. Raises ValueError where torch has no kernel or no backward for it.
    """
    query, key = (
        query.to(value.dtype),
        key.to(value.dtype),
    )  # autocast leaves those that a norm has made in float32
    options = {"block_mask": mask, "scale": scaling, "enable_gqa": query.shape[1] != key.shape[1]}
    if query.device.type != "cpu":
        if query.shape[-1] < 16:
            raise ValueError(
                f"flex attention needs heads of 16 channels or more, these have {query.shape[-1]}"
            )
        allow_variants()
        return compile_friendly_flex_attention(query, key, value, training=training, **options)
    if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad):
        raise ValueError(
            "flex attention has no backward on a CPU: there take attention=loop (ViT) and "
            "attn_implementation=sdpa (LLM)"
        )
    return flex_attention(query.detach(), key.detach(), value.detach(), **options)
