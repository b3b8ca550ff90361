"""What a pruned vision model needs beside its blocks: a scorer of its size, and the key bias."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .config import STTSConfig
from .scorer import STTSScorer
from .selection import attention_bias, num_dropped
from .windows import Grid


def drops_per_video(frames_per_video: Sequence[int], num_windows: int, prune_ratio: float) -> list[int]:
    """Windows each video loses."""
    return [num_dropped(frames, num_windows, prune_ratio) for frames in frames_per_video]


def build_scorer(dim: int, num_heads: int, num_blocks: int, stts: STTSConfig) -> STTSScorer:
    """A scorer of the size the settings ask for, on a ViT of this width, heads and blocks.

    Raises ValueError when the ViT has no block left to prune after the scored one and the biased one.
    """
    if stts.insert_after + 2 >= num_blocks:
        raise ValueError(
            f"insert_after is {stts.insert_after}, must leave blocks to prune: below "
            f"{num_blocks - 2} in a ViT of {num_blocks} blocks"
        )
    return STTSScorer(
        dim,
        stts.pool_width,
        stts.scorer_num_heads or num_heads,
        stts.scorer_hidden_dims,
        stts.scorer_activation,
    )


def key_bias(
    scores: Tensor, config: STTSConfig, frames_per_video: Sequence[int], grid: Grid, num_prefix: int
) -> Tensor | None:
    """(F, W) -> (F, R + N), 0 on prefix tokens and on videos that lose nothing; None for unlearned policies."""
    if config.policy != "scorer":
        return None
    shape = (config.bias_floor, config.bias_norm, grid, config.bias_range)
    bias = attention_bias(scores, frames_per_video, config.pool_width, *shape)
    drops = drops_per_video(frames_per_video, scores.shape[1], config.prune_ratio)
    whole = [drop == 0 for drop, frames in zip(drops, frames_per_video, strict=True) for _ in range(frames)]
    if any(whole):
        bias = bias.masked_fill(torch.tensor(whole).to(bias.device, non_blocking=True)[:, None], 0)
    return F.pad(bias, (num_prefix, 0))
