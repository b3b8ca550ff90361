"""The auxiliary loss that teaches the scorer temporal redundancy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .windows import Grid, check_frames, first_frames, resolve_grid, to_windows


def neighbor_similarity(features: Tensor, pool_width: int = 3, grid: Grid | None = None) -> Tensor:
    """Cosine similarity of each window with the same window one frame earlier.

    A window's feature is its p * p patch vectors laid end to end, in float32. features: (F, N, D) -> (F - 1, W),
    row t comparing frames t and t + 1 of the flattened batch, video borders included.
    """
    grid = resolve_grid(features.shape[1], grid)
    windows = to_windows(features.float(), grid, pool_width).flatten(2)  # (F, W, p * p * D)
    windows = F.normalize(windows, dim=-1, eps=1e-12)
    return (windows[1:] * windows[:-1]).sum(-1)


def novelty(features: Tensor, pool_width: int = 3, grid: Grid | None = None) -> Tensor:
    """What the scorer should say of each window: 1 - its similarity to the frame before it in the batch.

    features: (F, N, D) -> (F, W) float32, 0 in frame 0, which has none before it.
    """
    with torch.autocast(features.device.type, enabled=False):
        return F.pad(1 - neighbor_similarity(features, pool_width, grid), (0, 0, 1, 0))


def temporal_aux_loss(
    scores: Tensor,
    features: Tensor,
    frames_per_video: Sequence[int],
    pool_width: int = 3,
    grid: Grid | None = None,
    across_videos: bool = False,
) -> Tensor:
    """Mean of (score(t) - (1 - similarity(t, t - 1)))^2 over the windows of every frame t >= 1 of its video.

    scores: (F, W) raw scores in [0, 1]; features: (F, N, D), what the scorer saw; frames_per_video: T of each
    video, summing to F. Returns a float32 scalar, unweighted; 0 when no video has two frames. Gradient reaches
    both scores and features (paper equation of L_aux). across_videos: count the pair of a video's last frame and
    the next one's first too, as the published code does for no reason but that its batch is flat.
    """
    return score_error(scores, novelty(features, pool_width, grid), frames_per_video, across_videos)


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
