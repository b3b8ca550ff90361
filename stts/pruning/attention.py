"""Attention for the two kinds of block that pruning adds, behind transformers' attention interface.

A ViT whose config names "stts_<implementation>" runs unpruned blocks on <implementation> as before. A block given a
KeyBias in place of its attention mask adds it to the logits; one given Ragged attends within each frame of a packed
batch. Pooling a window is attention of a single query: a GPU computes it with plain sums.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_flash_attention_utils import lazy_import_flash_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from .flex import flex
from .handover import hear, told_aside
from .packing import Packing

PREFIX = "stts_"
HALF = (torch.float16, torch.bfloat16)
HALF_ALONE = ("varlen", "flash")
"""Backends whose kernels take half precision only."""


@dataclass(frozen=True)
class KeyBias:
    """Added to the logits of each key, for every query and head."""

    bias: Tensor
    """(B, L), at most 0."""

    def as_mask(self) -> AsMask:
        """For layers that call scaled_dot_product_attention themselves."""
        return AsMask(self)


@dataclass(frozen=True)
class Ragged:
    """B = 1 and L packed tokens of many frames, each frame attending to itself."""

    packing: Packing
    backend: str = "auto"
    key_bias: Tensor | None = None
    """(L,), added to the logits of each key."""

    def as_mask(self) -> AsMask:
        """For layers that call scaled_dot_product_attention themselves."""
        return AsMask(self)


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
        if implementation in ALL_MASK_ATTENTION_FUNCTIONS:  # masks are made by the name of the attention
            ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[implementation])
    config._attn_implementation = name


def uninstall(config) -> None:
    """Undo install."""
    implementation = config._attn_implementation or ""
    if implementation.startswith(PREFIX):
        config._attn_implementation = implementation.removeprefix(PREFIX)


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | KeyBias | Ragged | None,
    *,
    implementation: str,
    scaling: float,
    stts: KeyBias | Ragged | None = None,
    **kwargs,
) -> tuple[Tensor, Tensor | None]:
    """transformers' attention signature: query, key, value (B, heads, L, head_dim) -> (B, L, heads, head_dim).

    KeyBias and Ragged come as the mask, as the keyword stts, or told aside (handover.Route).
    """
    if stts is None and not isinstance(attention_mask, KeyBias | Ragged):
        stts = told_aside()
    attention_mask = attention_mask if stts is None else stts
    if isinstance(attention_mask, KeyBias | Ragged):
        out = attend_as_told(query, key, value, attention_mask, scaling)
    elif query.shape[2] == 1 < key.shape[2] and query.device.type != "cpu":
        out = one_query_attention(query, key, value, attention_mask, scaling)
    else:
        dense = _dense(module, implementation)
        return dense(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    return out.transpose(1, 2).contiguous(), None


def attend_as_told(
    query: Tensor, key: Tensor, value: Tensor, how: KeyBias | Ragged, scaling: float
) -> Tensor:
    """Attention of one block, all of (B, heads, L, head_dim), in value's dtype."""
    hear()
    # autocast leaves what a norm has made in float32, and kernels want one dtype
    query, key = query.to(value.dtype), key.to(value.dtype)
    if isinstance(how, KeyBias):
        return biased_attention(query, key, value, how.bias, scaling)
    head_dim = value.shape[-1]
    if how.key_bias is not None:
        query, key, value = with_bias_channels(query, key, value, how.key_bias[None], scaling)
    return ragged_attention(query[0], key[0], value[0], how.packing, scaling, how.backend)[
        None, ..., :head_dim
    ]


class AsMask:
    """What a block is told, for layers that call scaled_dot_product_attention themselves: it stands where their mask
    would."""

    def __init__(self, how: KeyBias | Ragged) -> None:
        self.how = how

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Tensor:
        if func is not F.scaled_dot_product_attention:
            return NotImplemented
        query, key, value = args[:3]
        scaling = (kwargs or {}).get("scale") or query.shape[-1] ** -0.5
        return attend_as_told(query, key, value, kwargs["attn_mask"].how, scaling)


def one_query_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float
) -> Tensor:
    """Attention of a single query in each of many small batches, such as windows of 9 patches: written out.

    query: (n, heads, 1, d); key, value: (n, heads or fewer, P, d); mask: None, (n, P), or what SDPA takes, bool or
    added, for (n, heads, 1, P). Returns (n, heads, 1, d). Fused GPU kernels do not suit this. They give each query a
    block, and launch at most 65,535; from 10,923 windows on some overflow 2^31 in the backward pass; and they keep
    gigabytes for it.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (x if groups == 1 else x.repeat_interleave(groups, 1) for x in (key, value))
    logits = (query.float() * key.float()).sum(-1) * scaling  # (n, heads, P)
    if mask is not None:
        mask = mask[:, :, 0] if mask.ndim == 4 else mask[:, None].bool()
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    weights = logits.softmax(-1).to(value.dtype)
    return (weights[..., None] * value).sum(2, keepdim=True)


def _dense(module: nn.Module, implementation: str) -> Callable:
    """The host's own attention; "eager" lives beside each model rather than in the registry."""
    if implementation == "eager":
        return sys.modules[type(module).__module__].eager_attention_forward
    return ALL_ATTENTION_FUNCTIONS[implementation]


def biased_attention(query: Tensor, key: Tensor, value: Tensor, key_bias: Tensor, scaling: float) -> Tensor:
    """softmax(scaling * q k^T + key_bias) v on a fused kernel, never with a mask of (L, L).

    The bias rides in extra channels: q' = [q, 1], k' = [k, bias / scaling], gradient included. In half precision
    a second channel carries what rounding took from the first. query, key, value: (B, heads, L, head_dim);
    key_bias: (B, L). Returns (B, heads, L, head_dim).
    """
    if key.device.type == "cpu" and not (torch.is_grad_enabled() and key_bias.requires_grad):
        # there the fused kernel takes a mask for nothing, while odd widths cost it half as much again
        mask = key_bias.float()[:, None, None]
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    head_dim = query.shape[-1]
    query, key, value = with_bias_channels(query, key, value, key_bias, scaling)
    return F.scaled_dot_product_attention(query, key, value, scale=scaling)[..., :head_dim]


def with_bias_channels(
    query: Tensor, key: Tensor, value: Tensor, key_bias: Tensor, scaling: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values with channels added, so that scaling * q' k'^T = scaling * q k^T + key_bias. The
    channels added to values are 0. Shapes as in biased_attention, but wider."""
    bias = (key_bias / scaling)[:, None, :, None]  # (B, 1, L, 1)
    high = bias.to(key.dtype)
    channels = [high] if key.dtype == torch.float32 else [high, (bias - high).to(key.dtype)]
    pad = -(query.shape[-1] + len(channels)) % 8  # fused kernels want a multiple of 8
    query = torch.cat([query, torch.ones_like(query[..., : len(channels)])], -1)
    key = torch.cat([key, *(c.expand(*key.shape[:-1], 1) for c in channels)], -1)
    value = F.pad(value, (0, len(channels) + pad))  # and q, k and v of one width
    return F.pad(query, (0, pad)), F.pad(key, (0, pad)), value


def describe_attention(model: PreTrainedModel, dtype: torch.dtype | None = None) -> str:
    """What a pruning model attends with on the device it is on, in one line for logs.

    dtype: of the computation; under autocast it is not that of the weights. Raises ValueError when the backend asked
    for is not there.
    """
    vision, text = (getattr(model.config, name, None) for name in ("vision_config", "text_config"))
    dense = ((vision or model.config)._attn_implementation or "eager").removeprefix(PREFIX)
    backend, why = model.stts.attention, ""
    if backend == "auto":
        dtype = dtype or model.dtype
        backend, why = choose_backend(model.device, dtype), f" (auto: {dtype} on {model.device.type})"
    if backend == "flash":
        backend = flash_implementation()
    parts = [f"ViT {dense}", "biased block sdpa", f"ragged blocks {backend}{why}"]
    return ", ".join(parts) + (f", LLM {text._attn_implementation}" if text is not None else "")


def choose_backend(device: torch.device, dtype: torch.dtype) -> str:
    """What "auto" means: a loop on the CPU, varlen kernels for half precision on CUDA, bins elsewhere."""
    if device.type == "cpu":
        return "loop"
    if device.type == "cuda" and dtype in HALF:
        return "varlen"
    return "bins"


def ragged_attention(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float, backend: str = "auto"
) -> Tensor:
    """Attention within each segment of a packed batch.

    query, key, value: (heads, K, head_dim) -> (heads, K, head_dim). Raises ValueError for an unknown backend, and for
    float32 where its kernels take half precision only.
    """
    if backend == "auto":
        backend = choose_backend(query.device, query.dtype)
    if backend not in _BACKENDS:
        raise ValueError(f"attention is {backend!r}, must be auto or one of {', '.join(_BACKENDS)}")
    if backend in HALF_ALONE and query.dtype not in HALF:
        raise ValueError(
            f"attention is {backend!r}, whose kernels take bfloat16 and float16, but queries are {query.dtype}: take "
            "attention=auto, or train in train.mixed_precision=bf16"
        )
    return _BACKENDS[backend](query, key, value, packing, scaling)


@torch.compiler.disable  # traced, it would be unrolled over the frames, anew for every batch
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


def _flash(query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float) -> Tensor:
    """FlashAttention 3 or 2, as transformers finds them."""
    (_, attend, *_), _ = lazy_import_flash_attention(flash_implementation())
    segments, longest = packing.cu_seqlens, packing.max_seqlen
    out = attend(
        *(x.transpose(0, 1).contiguous() for x in (query, key, value)),  # (K, heads, head_dim)
        cu_seqlens_q=segments,
        cu_seqlens_k=segments,
        max_seqlen_q=longest,
        max_seqlen_k=longest,
        softmax_scale=scaling,
        causal=False,
    )
    return (out[0] if isinstance(out, tuple) else out).transpose(0, 1)


def flash_implementation() -> str:
    """transformers' name of the newest FlashAttention here. Raises ValueError where there is none."""
    if is_flash_attn_3_available():
        return "flash_attention_3"
    if is_flash_attn_2_available():
        return "flash_attention_2"
    raise ValueError(
        "attention is 'flash', but neither FlashAttention 2 nor 3 can be used here: install flash-attn on a machine "
        "with a CUDA device, or take attention=auto"
    )


def _flex(query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float) -> Tensor:
    inputs = (x[None] for x in (query, key, value))
    return flex(*inputs, packing.block_mask, scaling, query.requires_grad)[0]


@torch.compiler.disable
def _bins(query: Tensor, key: Tensor, value: Tensor, packing: Packing, scaling: float) -> Tensor:
    """First-fit-decreasing rows under a block-diagonal mask. Portable, but once a batch it waits for the lengths."""
    slots, segments = packing.bins
    mask = (segments[:, None, :, None] == segments[:, None, None, :]).logical_or(
        torch.eye(segments.shape[1], dtype=torch.bool, device=segments.device)  # no row without a key
    )

    def lay(x: Tensor) -> Tensor:  # (heads, K, d) -> (bins, heads, capacity, d)
        rows = x.new_zeros(segments.numel(), len(x), x.shape[-1]).index_copy(0, slots, x.transpose(0, 1))
        return rows.unflatten(0, segments.shape).transpose(1, 2)

    out = F.scaled_dot_product_attention(lay(query), lay(key), lay(value), attn_mask=mask, scale=scaling)
    return out.transpose(1, 2).flatten(0, 1).index_select(0, slots).transpose(0, 1)


_BACKENDS = {"loop": _loop, "varlen": _varlen, "flash": _flash, "flex": _flex, "bins": _bins}
