"""The hook: a ViT's blocks run dense, then scored, then on the surviving patches only.

Blocks 0..insert_after see every patch. Their output is scored; the next block runs dense with the scores as a key
bias; after it only kept patches exist, packed frame by frame, and attend within their frame.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

from .attention import KeyBias, Ragged
from .config import STTSConfig
from .losses import neighbor_similarity
from .packing import Packing, pack, plan_packing, put_back_lone_frames
from .scorer import STTSScorer
from .selection import attention_bias, num_dropped, select_windows
from .windows import Grid, check_frames, spread, window_grid


@dataclass(frozen=True)
class PrunedFeatures:
    """What a pruning ViT hands on. R prefix tokens (CLS, registers) stand before the N patches of a frame."""

    hidden_states: dict[int, Tensor]
    """Output of each collected block at the survivors: (K, D), frame by frame."""
    packing: Packing
    """Where the survivors stood among the F * (R + N) tokens."""
    keep: Tensor
    """(F, W) bool, True = kept."""
    scores: Tensor
    """(F, W) float32, what the windows were ranked by."""
    scored: Tensor
    """(F, N, D), the patch features that were scored."""


def drops_per_video(frames_per_video: Sequence[int], num_windows: int, prune_ratio: float) -> list[int]:
    """Windows each video loses."""
    return [num_dropped(frames, num_windows, prune_ratio) for frames in frames_per_video]


def build_scorer(vision: PreTrainedConfig, stts: STTSConfig) -> STTSScorer:
    """A scorer of the size the settings ask for on a ViT of this transformers config.

    Raises ValueError when the ViT has no block left to prune after the scored one and the biased one.
    """
    if stts.insert_after + 2 >= vision.num_hidden_layers:
        raise ValueError(
            f"insert_after is {stts.insert_after}, must leave blocks to prune: below "
            f"{vision.num_hidden_layers - 2} in a ViT of {vision.num_hidden_layers} blocks"
        )
    return STTSScorer(
        vision.hidden_size,
        stts.pool_width,
        stts.scorer_num_heads or vision.num_attention_heads,
        stts.scorer_hidden_dims,
        stts.scorer_activation,
    )


def run_pruned(
    blocks: Sequence[nn.Module],
    x: Tensor,
    scorer: STTSScorer,
    config: STTSConfig,
    frames_per_video: Sequence[int],
    grid: Grid,
    collect: Collection[int],
    num_prefix: int = 0,
) -> PrunedFeatures:
    """Run transformer blocks, pruning after block insert_after + 1.

    blocks: transformers layers, called as block(x, None, ...), their config prepared by attention.install; x:
    (F, R + N, D) embedded tokens, num_prefix = R; frames_per_video: T of each video, summing to F; collect: the
    zero-based blocks whose outputs are wanted.
    """
    check_frames(len(x), frames_per_video)
    collected = {}
    for i in range(config.insert_after + 1):
        x = collected[i] = blocks[i](x, None)

    scored = x[:, num_prefix:]  # (F, N, D)
    scores = score(scored, scorer, config, frames_per_video, grid)
    keep = select_windows(scores, frames_per_video, config.prune_ratio)

    biased = config.insert_after + 1
    bias = key_bias(scores, config, frames_per_video, grid, num_prefix)
    x = collected[biased] = blocks[biased](x, None if bias is None else KeyBias(bias))

    packing = plan_survivors(keep, config, frames_per_video, grid, num_prefix)
    collected = {i: pack(hidden, packing) for i, hidden in collected.items() if i in collect}
    running = put_back_lone_frames(packing) if config.put_back else packing
    x = pack(x, running)[None]  # (1, K, D)
    ragged = Ragged(running, config.attention)
    for i in range(biased + 1, len(blocks)):
        x = blocks[i](x, ragged)
        if i in collect:
            collected[i] = x[0, running.positions()[packing.index]] if config.put_back else x[0]
    return PrunedFeatures(collected, packing, keep, scores, scored)


def score(
    x: Tensor, scorer: STTSScorer, config: STTSConfig, frames_per_video: Sequence[int], grid: Grid
) -> Tensor:
    """(F, N, D) -> (F, W): what the policy ranks windows by."""
    if config.policy == "scorer":
        return scorer.score_windows(x, frames_per_video, grid)
    if config.policy == "temporal":
        novelty = 1 - neighbor_similarity(x.detach(), config.pool_width, grid)
        return F.pad(novelty, (0, 0, 1, 0), value=1.0)
    rows, cols = window_grid(grid, config.pool_width)
    return torch.rand(len(x), rows * cols, device=x.device)


def key_bias(
    scores: Tensor, config: STTSConfig, frames_per_video: Sequence[int], grid: Grid, num_prefix: int
) -> Tensor | None:
    """(F, W) -> (F, R + N), 0 on prefix tokens and on videos that lose nothing; None for unlearned policies."""
    if config.policy != "scorer":
        return None
    bias = attention_bias(
        scores, frames_per_video, config.pool_width, config.bias_floor, config.bias_norm, grid
    )
    drops = drops_per_video(frames_per_video, scores.shape[1], config.prune_ratio)
    whole = [drop == 0 for drop, frames in zip(drops, frames_per_video, strict=True) for _ in range(frames)]
    if any(whole):
        bias = bias.masked_fill(torch.tensor(whole).to(bias.device, non_blocking=True)[:, None], 0)
    return F.pad(bias, (num_prefix, 0))


def plan_survivors(
    keep: Tensor, config: STTSConfig, frames_per_video: Sequence[int], grid: Grid, num_prefix: int
) -> Packing:
    """Pack the patches of kept windows and all prefix tokens; sizes come from (T, W, ratio), never the device."""
    frames, windows = keep.shape
    p2, patches = config.pool_width**2, grid[0] * grid[1]
    kept = keep.numel() - sum(drops_per_video(frames_per_video, windows, config.prune_ratio))
    filler = frames * (windows * p2 - patches)  # cells of a padded grid hold no patch
    tokens = F.pad(spread(keep, grid, config.pool_width), (num_prefix, 0), value=True)
    return plan_packing(tokens, min(kept * p2, frames * patches) + frames * num_prefix, filler)
