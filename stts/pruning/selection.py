"""Scores -> which windows stay, and the key bias through which the LLM's loss reaches the scores.

How many windows a video loses follows from (T, W, prune ratio) alone, so every size downstream is known before
the model runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from einops import rearrange
from torch import Tensor

from .windows import Grid, check_frames, first_frames, resolve_window_grid, spread, window_grid


def num_dropped(frames: int, windows: int, prune_ratio: float) -> int:
    """Windows a video of `frames` x `windows` loses: min(floor(W * T * ratio + 1e-6), W * (T - 1)).

    The first frame always stays whole, so a single frame loses nothing. Raises ValueError unless
    0 <= prune_ratio < 1.
    """
    if not 0 <= prune_ratio < 1:
        raise ValueError(f"prune_ratio is {prune_ratio}, must be in [0, 1)")
    return min(math.floor(windows * frames * prune_ratio + 1e-6), windows * (frames - 1))


def num_kept_later(sizes: Iterable[tuple[int, int]], prune_ratio: float) -> int:
    """Windows of later frames that survive, in videos of these (T, W): those that stay for their score."""
    return sum((t - 1) * w - num_dropped(t, w, prune_ratio) for t, w in sizes)


@torch.no_grad()
def select_windows(
    scores: Tensor, frames_per_video: Sequence[int], prune_ratio: float, first_frame_whole: bool = True
) -> Tensor:
    """Keep the best windows of each video, ranked over all its frames together (paper section 3).

    scores: (F, W), F frames of all videos one after the other; frames_per_video: T of each, summing to F; prune_ratio
    in [0, 1); first_frame_whole: True keeps all of a video's first frame, False ranks it like the others. Returns the
    keep mask (F, W) bool, True = keep. Exactly num_dropped windows of each video go. Among equal scores the earliest
    window goes first; NaN counts as the highest score. Raises ValueError when frames_per_video does not fit.
    """
    check_frames(len(scores), frames_per_video)
    keep = torch.ones_like(scores, dtype=torch.bool)
    frames = list(frames_per_video)
    for video_scores, video_keep in zip(scores.split(frames), keep.split(frames), strict=True):
        drop = num_dropped(*video_scores.shape, prune_ratio)
        ranked = int(first_frame_whole)  # the first frame that is
        lowest = video_scores[ranked:].flatten().argsort(stable=True)[:drop]
        video_keep[ranked:].view(-1).index_fill_(0, lowest, False)
    return keep


@torch.no_grad()
def explore(scores: Tensor, noise: float) -> Tensor:
    """What to rank while exploring: the logits of the scores plus `noise` times Gumbel noise.

    scores: in [0, 1], any shape -> float32 of that shape, without gradient; noise is drawn from torch's generator.
    Taking the highest draws windows without replacement, with odds in proportion to (s / (1 - s)) ** (1 / noise)
    (Gumbel top-k: Kool et al. 2019, arXiv 1903.06059).
    """
    gumbel = -torch.empty_like(scores, dtype=torch.float32).exponential_().log()
    return scores.float().logit(eps=1e-6) + noise * gumbel


def attention_bias(
    scores: Tensor,
    frames_per_video: Sequence[int],
    pool_width: int = 3,
    floor: float = math.exp(-2),
    norm: str = "row",
    grid: Grid | None = None,
    least_range: float = 0.0,
) -> Tensor:
    """Scores as an additive bias on the attention logits of each patch as a key.

    The scores are rescaled by min-max to weights in [floor, 1], over each row of windows (norm="row", as published)
    or each frame (norm="frame"); the first frame of each video has weight 1. The bias is the weights' logarithm, at
    most 0. Gradient flows through the scores, their minimum and their maximum. This is the only path from later
    layers to the scorer (paper section 3).

    scores: (F, W) -> (F, N) float32; grid: the patch grid, square by default; least_range: where the scores span less
    than this, they are rescaled as if they spanned this much, with the highest at weight 1.
    """
    check_frames(len(scores), frames_per_video)
    grid = resolve_window_grid(scores.shape[1], pool_width, grid)
    rows = window_grid(grid, pool_width)[0] if norm == "row" else 1
    s = rearrange(scores.float(), "f (r c) -> f r c", r=rows)
    low, high = s.amin(-1, keepdim=True), s.amax(-1, keepdim=True)
    low = torch.minimum(low, high - least_range)
    weight = floor + (s - low) * (1 - floor) / (high - low + 1e-6)
    weight = rearrange(weight, "f r c -> f (r c)")
    weight = weight.masked_fill(first_frames(frames_per_video, scores.device)[:, None], 1.0)
    return spread(weight.log(), grid, pool_width)


def prune_tokens(x: Tensor, scores: Tensor, k_percent: float) -> Tensor:
    """Drop the k_percent lowest-scoring tokens of each row, order kept.

    x: (B, N, D); scores: (B, N); k_percent in [0, 100]. Returns (B, keep_n, D) with
    keep_n = int(N * (1 - k_percent / 100)). Raises ValueError on another range or mismatched shapes.
    """
    if not 0 <= k_percent <= 100:
        raise ValueError(f"k_percent is {k_percent}, must be in [0, 100]")
    if scores.shape != x.shape[:2]:
        raise ValueError(f"scores are {tuple(scores.shape)}, must be {tuple(x.shape[:2])} to match x")
    keep_n = int(x.shape[1] * (1 - k_percent / 100))
    kept = scores.argsort(dim=1, descending=True, stable=True)[:, :keep_n].sort(dim=1).values  # (B, keep_n)
    return x.gather(1, kept[..., None].expand(-1, -1, x.shape[2]))
