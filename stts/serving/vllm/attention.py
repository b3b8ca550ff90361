"""Molmo2's mask in vLLM's LLM, as transformers has it: causal, and the visual tokens of a prompt see each other.

vLLM's own prefix mask knows ranges alone, in which timestamps between the frames would be visual, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from vllm.platforms import current_platform
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl

from ..layout import both_ways


class VisualTokens:
    """Which tokens of the batch that runs now are visual. The model says so, every layer's attention asks."""

    def __init__(self) -> None:
        self.now: Tensor | None = None
        """(N,) bool."""
        self.slots: Tensor | None = None
        """(all slots of the KV cache,) bool, whether a visual token's keys lie there; on GPUs."""
        self._step: Any = None
        self._prompts: list[tuple[int, int, Tensor]] = []

    def start(self, visual: Tensor) -> None:
        """A step begins."""
        self.now, self._step = visual, None

    def prompts(self, metadata: Any) -> list[tuple[int, int, Tensor]]:
        """First row, one past the last and (L, L) mask of each prompt with visual tokens. Worked out once a step.

        Raises RuntimeError where one came in pieces.
        """
        if self._step is metadata:
            return self._prompts
        self._step, self._prompts = metadata, []
        starts, lengths = metadata.query_start_loc.tolist(), metadata.seq_lens.tolist()
        for start, end, length in zip(starts, starts[1:], lengths, strict=False):
            visual = self.now[start:end]
            if not visual.any():
                continue
            if end - start != length:
                raise RuntimeError(
                    "a prompt with a video came in pieces: prefix caching and chunks must be off"
                )
            self._prompts.append((start, end, both_ways(visual)))
        return self._prompts

    def mark_slots(self, metadata: Any) -> Callable[..., Tensor] | None:
        """Note where this step's keys go, and the step's mask for flex attention; None where that is done already."""
        if self._step is metadata:
            return None
        self._step = metadata
        count = metadata.num_actual_tokens
        if self.slots is None:
            self.slots = torch.zeros(metadata.total_cache_tokens, dtype=torch.bool, device=self.now.device)
        visual = F.pad(self.now[:count], (0, -count % metadata.q_block_size))
        self.slots.index_copy_(0, metadata.slot_mapping[:count].long(), visual[:count])
        return paged_mask(metadata, visual, self.slots)


class OnCPU(CPUAttentionBackendImpl):
    """vLLM's causal kernel, and for prompts with visual tokens SDPA with their mask."""

    visual: VisualTokens

    def forward(self, layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs):
        prompts = [] if attn_metadata is None else self.visual.prompts(attn_metadata)
        rows = sum(end - start for start, end, _ in prompts)
        if attn_metadata is None or rows < attn_metadata.num_actual_tokens:
            super().forward(layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs)
        heads = output.view(len(output), self.num_heads, -1)
        for start, end, mask in prompts:
            q, k, v = (x[start:end].transpose(0, 1) for x in (query, key, value))
            attended = F.scaled_dot_product_attention(q, k, v, mask, scale=self.scale, enable_gqa=True)
            heads[start:end] = attended.transpose(0, 1)
        return output


def paged_mask(metadata: Any, visual: Tensor, slots: Tensor) -> Callable[..., Tensor]:
    """mask_mod of FlexAttentionMetadata's form: row q of the batch against slot kv of the KV cache.

    visual: (N,) bool of the rows; slots: (slots,) bool. Not run on a GPU; tested as a dense mask.
    """
    causal = metadata.get_mask_mod()

    def mask(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        own, _, _ = metadata._convert_physical_to_logical(metadata.doc_ids, q, kv)
        return causal(b, h, q, kv) | (own & visual[q] & slots[kv])

    return mask


def use_mask(metadata: Any, mask: Callable[..., Tensor]) -> None:
    """Let flex attention run with this mask. Blocks behind a row, which it leaves out as long as metadata is causal,
    are looked at wherever several rows of a prompt run."""
    metadata.mask_mod, metadata.causal = mask, metadata.max_query_len == 1
    if metadata.direct_build:
        metadata.block_mask = metadata._build_block_mask_direct()
    else:
        metadata.get_mask_mod = lambda: mask
        metadata.block_mask = metadata.build_block_mask()


def see_each_other(layers: nn.ModuleList) -> VisualTokens:
    """Let the attention of vLLM's Molmo2 mask so; what to tell at every step."""
    visual = VisualTokens()
    for layer in layers:
        impl = layer.self_attn.attn.impl
        impl.__class__ = OnCPU if current_platform.is_cpu() else _on_gpu()
        impl.visual = visual
    return visual


def _on_gpu() -> type:
    """FlexAttention with our mask. Not run: no GPU had vLLM."""
    from vllm.v1.attention.backends.flex_attention import FlexAttentionImpl

    class OnGPU(FlexAttentionImpl):
        visual: VisualTokens

        def forward(self, layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs):
            if attn_metadata is not None and (mask := self.visual.mark_slots(attn_metadata)) is not None:
                use_mask(attn_metadata, mask)
            return super().forward(layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs)

    return OnGPU
