"""How many times faster pruning can make the prompt of one question: the ratio of multiply-adds."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ..data.processors.base import Processor
from ..data.video.read import Clip
from ..hosts import flops, flops_qwen3_vl

TEXT_PER_FRAME, TEXT_PER_UNIT = 6, 8
"""Tokens of a timestamp, as the counts take them by default."""


def limit_of(
    model: nn.Module, processor: Processor, clip: Clip, prompt: Mapping[str, Tensor], prune_ratio: float
) -> float | None:
    """prompt: the question's tensors, of one row. None for a model whose arithmetic nobody has counted."""
    units, rows, cols = processor.window_grid(clip)
    text, kind = prompt["input_ids"].shape[1] - units * rows * cols, model.config.model_type
    if kind == "molmo2":
        text -= (flops.FRAME_MARKERS + TEXT_PER_FRAME) * units
        return flops.limit(model.config, units, prune_ratio, text_tokens=max(0, text), logits=1)
    if kind == "qwen3_vl":
        text -= (flops_qwen3_vl.UNIT_MARKERS + TEXT_PER_UNIT) * units
        patches = (rows * model.host.unit, cols * model.host.unit)
        sizes = {"text_tokens": max(0, text), "logits": 1}
        return flops_qwen3_vl.limit(model.config, units, patches, prune_ratio, **sizes)
    return None
