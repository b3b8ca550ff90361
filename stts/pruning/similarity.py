"""How alike a window and the same window one frame earlier are, keeping one number a window in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .windows import Grid, resolve_grid, spread, to_windows

FRAMES_AT_ONCE = 16
"""Frames that exist in float32 at a time, however long the video is."""
EPS = 1e-12
"""Least norm of a window, that of F.normalize."""


def neighbor_similarity(features: Tensor, pool_width: int = 3, grid: Grid | None = None) -> Tensor:
    """Cosine similarity of each window with the same window one frame earlier.

    A window's feature is its p * p patch vectors laid end to end, in float32. features: (F, N, D) -> (F - 1, W)
    float32. Row t compares frames t and t + 1 of the flattened batch, also where a new video begins. For the backward
    pass it keeps O(F * W) numbers beside the features, which the ViT holds anyway. It cannot be differentiated twice.
    """
    return _NeighborCosine.apply(features, resolve_grid(features.shape[1], grid), pool_width)


class _NeighborCosine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Grid, pool_width: int) -> Tensor:
        """(F, N, D) -> cosines (F - 1, W) float32, FRAMES_AT_ONCE frames at a time."""
        products, squares = [], []
        for start in range(0, len(x), FRAMES_AT_ONCE):
            piece = x[start : start + FRAMES_AT_ONCE + 1].float()  # one more: the first of the next piece
            products.append((piece[1:] * piece[:-1]).sum(-1))
            squares.append(piece[:FRAMES_AT_ONCE].square().sum(-1))
        norms = _window_sums(torch.cat(squares), grid, pool_width).sqrt().clamp(min=EPS)  # (F, W)
        cosine = _window_sums(torch.cat(products), grid, pool_width) / (norms[1:] * norms[:-1])
        ctx.save_for_backward(x, norms, cosine)
        ctx.grid, ctx.pool_width = grid, pool_width
        return cosine

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """Gradient of the cosines, (F - 1, W), -> that of the features, (F, N, D).

        d cos(a, b) / da = b / (|a| |b|) - cos * a / |a|^2, for both neighbours of every frame.
        """
        x, norms, cosine = ctx.saved_tensors
        cross = grad / (norms[1:] * norms[:-1])  # (F - 1, W)
        own = F.pad(grad * cosine, (0, 0, 1, 0)) + F.pad(grad * cosine, (0, 0, 0, 1))
        weights = (F.pad(cross, (0, 0, 1, 0)), -own / norms.square(), F.pad(cross, (0, 0, 0, 1)))
        before, here, after = (spread(w, ctx.grid, ctx.pool_width)[..., None] for w in weights)  # (F, N, 1)
        out = torch.empty_like(x)
        for start in range(0, len(x), FRAMES_AT_ONCE):
            frames = slice(start, min(start + FRAMES_AT_ONCE, len(x)))
            # one frame more at both ends; where there is none, any will do, its weight is 0
            around = torch.arange(start - 1, frames.stop + 1, device=x.device).clamp(0, len(x) - 1)
            piece = x[around].float()
            out[frames] = before[frames] * piece[:-2] + here[frames] * piece[1:-1] + after[frames] * piece[2:]
        return out, None, None


def _window_sums(x: Tensor, grid: Grid, pool_width: int) -> Tensor:
    """(F, N), a number a patch -> (F, W)."""
    return to_windows(x[..., None], grid, pool_width).sum((2, 3))
