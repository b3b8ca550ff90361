"""The auxiliary loss that teaches the scorer temporal redundancy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .similarity import neighbor_similarity
from .windows import Grid, check_frames, first_frames, resolve_grid, to_windows


def novelty(features: Tensor, pool_width: int = 3, grid: Grid | None = None) -> Tensor:
    """The scorer's target for each window: 1 - its cosine similarity to the same window one frame earlier.

    features: (F, N, D) -> (F, W) float32. Earlier means the frame before in the batch, also where a new video begins;
    frame 0 has none and is 0.
    """
    with torch.autocast(features.device.type, enabled=False):
        change = 1 - neighbor_similarity(features, pool_width, grid)
        return F.pad(change, (0, 0, 1, 0))


def window_features(features: Tensor, pool_width: int = 3, grid: Grid | None = None) -> Tensor:
    """The patch vectors of each window laid end to end: (F, N, D) -> (F, W, p * p * D) float32."""
    return to_windows(features.float(), resolve_grid(features.shape[1], grid), pool_width).flatten(2)


def temporal_aux_loss(
    scores: Tensor,
    features: Tensor,
    frames_per_video: Sequence[int],
    pool_width: int = 3,
    grid: Grid | None = None,
    across_videos: bool = False,
) -> Tensor:
    """Mean of (score(t) - (1 - similarity(t, t - 1)))^2 over the windows of every frame t >= 1 of its video.

    This is L_aux of the paper. scores: (F, W) raw scores in [0, 1]; features: (F, N, D), what the scorer saw;
    frames_per_video: T of each video, summing to F. Returns a float32 scalar, unweighted; 0 when no video has two
    frames. Its gradient reaches both scores and features. across_videos: also count each pair made of a video's last
    frame and the next video's first. The published code does, because its batch is flat.
    """
    targets = novelty(features, pool_width, grid)
    return score_error(scores, targets, frames_per_video, across_videos)


def score_error(
    scores: Tensor, targets: Tensor, frames_per_video: Sequence[int], across_videos: bool = False
) -> Tensor:
    """The mean squared error of temporal_aux_loss, given its targets: (F, W), (F, W) -> ()."""
    check_frames(len(scores), frames_per_video)
    error = (scores[1:].float() - targets[1:]).square()
    if across_videos:
        return error.sum() / max(error.numel(), 1)
    apart = first_frames(frames_per_video, scores.device)[1:, None]
    count = max((len(scores) - len(frames_per_video)) * scores.shape[1], 1)
    return error.masked_fill(apart, 0).sum() / count


def weighted_lm_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean, over labels, of -log p of the label given the tokens before it.

    logits: (B, L, V); labels: (B, L) int64, -100 where there is none; weights: (B, L) float, of each label.
    """
    labels = labels[:, 1:].flatten()
    weights = weights[:, 1:].flatten().masked_fill(labels == -100, 0)
    losses = F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels, ignore_index=-100, reduction="none"
    )
    return (losses * weights).sum() / weights.sum().clamp(min=1e-12)
