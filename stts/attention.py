"""Attention for the two kinds of block that pruning adds, behind transformers' attention interface.

A ViT whose config names "stts_<implementation>" runs unpruned blocks on <implementation> as before. A block given
a KeyBias in place of its attention mask adds it to the logits; one given Ragged attends within each frame of a
packed batch. The mask is the one argument that every transformers layer hands through to its attention.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .packing import Packing, bin_slots, plan_bins

PREFIX = "stts_"


@dataclass(frozen=True)
class KeyBias:
    """Added to the logits of each key, for every query and head."""

    bias: Tensor
    """(B, L), at most 0."""


@dataclass(frozen=True)
class Ragged:
    """B = 1 and L packed tokens of many frames, each frame attending to itself."""

    packing: Packing
    backend: str = "auto"


def install(config) -> None:
    """Route the attention of every layer that reads this transformers config through this module.

    Idempotent, and cheap enough to call before each forward, so that a later `set_attn_implementation` cannot
    silently drop the bias.
    """
    implementation = config._attn_implementation or "eager"
    if implementation.startswith(PREFIX):
        return
    name = PREFIX + implementation
    if name not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(name, partial(attention_forward, implementation=implementation))
    config._attn_implementation = name


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | KeyBias | Ragged | None,
    *,
    implementation: str,
    scaling: float,
    **kwargs,
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention signature: query, key, value (B, heads, L, head_dim) -> (B, L, heads, head_dim)."""
    if isinstance(attention_mask, Ragged):
        packing, backend = attention_mask.packing, attention_mask.backend
        out = ragged_attention(query[0], key[0], value[0], packing, scaling, backend)[None]
    elif isinstance(attention_mask, KeyBias):
        out = biased_attention(query, key, value, attention_mask.bias, scaling)
    else:
        dense = _dense(module, implementation)
        return dense(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    return out.transpose(1, 2).contiguous(), None


def _dense(module: nn.Module, implementation: str) -> Callable:
    """The host's own attention; "eager" lives beside each model rather than in the registry."""
    if implementation == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS[implementation]


def biased_attention(query: Tensor, key: Tensor, value: Tensor, key_bias: Tensor, scaling: float) -> Tensor:
    """softmax(scaling * q k^T + key_bias) v without a mask, so that any fused kernel computes it.

    The bias rides in extra channels: q' = [q, 1], k' = [k, bias / scaling], gradient included. In half precision
    a second channel carries what rounding took from the first. query, key, value: (B, heads, L, head_dim);
    key_bias: (B, L). Returns (B, heads, L, head_dim).
    """
    bias = (key_bias / scaling)[:, None, :, None]  # (B, 1, L, 1)
    high = bias.to(key.dtype)
    channels = [high] if key.dtype == torch.float32 else [high, (bias - high).to(key.dtype)]
    head_dim = query.shape[-1]
    pad = -(head_dim + len(channels)) % 8  # fused kernels want a multiple of 8
    query = torch.cat([query, torch.ones_like(query[..., : len(channels)])], -1)
    key = torch.cat([key, *(c.expand(*key.shape[:-1], 1) for c in channels)], -1)
    query, key = F.pad(query, (0, pad)), F.pad(key, (0, pad))
    value = F.pad(value, (0, len(channels) + pad))  # fused kernels want q, k and v of one width
    return F.scaled_dot_product_attention(query, key, value, scale=scaling)[..., :head_dim]


def choose_backend(device: torch.device, dtype: torch.dtype) -> str:
    """What "auto" means: a loop on the CPU, varlen kernels for half precision on CUDA, bins elsewhere."""
    if device.type == "cpu":
        return "loop"
    if device.type == "cuda" and dtype in (torch.float16, torch.bfloat16):
        return "varlen"
    return "bins"


def ragged_attention(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float, backend: str = "auto"
) -> Tensor:
    """Attention within each segment of a packed batch.

    query, key, value: (heads, K, head_dim) -> (heads, K, head_dim). Raises ValueError on an unknown backend.
    """
    if backend == "auto":
        backend = choose_backend(query.device, query.dtype)
    if backend not in _BACKENDS:
        raise ValueError(f"attention is {backend!r}, must be auto or one of {', '.join(_BACKENDS)}")
    return _BACKENDS[backend](query, key, value, packing, scaling)


def _loop(query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float) -> Tensor:
    # split, not slices: a slice's backward makes a gradient of the full size for every piece
    lengths = packing.lengths()
    pieces = zip(query.split(lengths, 1), key.split(lengths, 1), value.split(lengths, 1), strict=True)
    attend = partial(F.scaled_dot_product_attention, scale=scaling)
    return torch.cat([attend(q[None], k[None], v[None])[0] for q, k, v in pieces if q.shape[1]], 1)


def _varlen(query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (x.transpose(0, 1).contiguous() for x in (query, key, value))  # (K, heads, head_dim)
    cu_seqlens, longest = packing.cu_seqlens, packing.max_seqlen
    return varlen_attn(q, k, v, cu_seqlens, cu_seqlens, longest, longest, scale=scaling).transpose(0, 1)


def _bins(query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float) -> Tensor:
    """First-fit-decreasing rows under a block-diagonal mask: portable, but it waits for the lengths."""
    lengths = packing.lengths()
    slots, segments = (x.to(query.device) for x in bin_slots(plan_bins(lengths, packing.max_seqlen), lengths))
    mask = (segments[:, None, :, None] == segments[:, None, None, :]).logical_or(
        torch.eye(segments.shape[1], dtype=torch.bool, device=segments.device)  # no row without a key
    )

    def lay(x: Tensor) -> Tensor:  # (heads, K, d) -> (bins, heads, capacity, d)
        rows = x.new_zeros(segments.numel(), len(x), x.shape[-1]).index_copy(0, slots, x.transpose(0, 1))
        return rows.unflatten(0, segments.shape).transpose(1, 2)

    out = F.scaled_dot_product_attention(lay(query), lay(key), lay(value), attn_mask=mask, scale=scaling)
    return out.transpose(1, 2).flatten(0, 1).index_select(0, slots).transpose(0, 1)


_BACKENDS = {"loop": _loop, "varlen": _varlen, "bins": _bins}
