"""The task teaches the scorer: what a visual token is worth is told by the size of the LLM's gradient at it.

`teach` is the identity on the tokens that enter the LLM. In the ordinary backward pass the gradient g of the loss
arrives at each token f. |g| |f|, as a share of the greatest of its video, is the token's relevance: what the score
of its window is pulled towards. The signed product g . f, which a gate or a key bias passes on, says nothing of the
kind once answers are right (docs/relevance.md). No second pass is made, and nobody waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .config import STTSConfig
from .selection import num_kept_later

EPS = 1e-6
"""How close to 0 and 1 a score counts as."""
SUMS = ("count", "sum", "squares", "scores", "score_squares", "products", "loss")
"""What `Relevance.sums` holds: sums over the kept windows of later frames that have a relevance r, s being their
score: of 1, r, r^2, s, s^2, r s, and the cross-entropy."""


def is_taught(config: STTSConfig) -> bool:
    """Whether settings ask for relevance: only a scorer can be taught."""
    return config.policy == "scorer" and config.relevance_weight > 0 and config.prune_ratio > 0


@dataclass(frozen=True)
class Relevance:
    """What the tokens of one forward pass teach, and, after its backward pass, what they taught."""

    loss: Tensor
    """() Always 0: the cross-entropy is not known before the backward pass. Its gradient is what teaches. Scaling
    this loss scales that gradient, as for any loss."""
    heard: list[Tensor]
    """The sums of each backward pass."""

    @property
    def sums(self) -> Tensor | None:
        """(SUMS,) float64, on the device; None before the backward pass."""
        return self.heard[-1] if self.heard else None


@dataclass(frozen=True)
class Windows:
    """Where the windows of a batch stand, M in all, video by video."""

    sizes: Sequence[tuple[int, int]]
    """T and W of each video."""
    keep: Tensor
    """(M,) bool."""
    of_token: Tensor
    """(K,) int64, the window behind each token that enters the LLM; -1: none."""

    @property
    def video(self) -> Tensor:
        """(M,) int64, the video of each window."""
        counts = torch.tensor([frames * windows for frames, windows in self.sizes])
        videos = torch.repeat_interleave(torch.arange(len(self.sizes)), counts)
        return videos.to(self.keep.device, non_blocking=True)

    @property
    def later(self) -> Tensor:
        """(M,) bool, False in first frames, which stay whatever their score."""
        parts = [torch.arange(frames * windows) >= windows for frames, windows in self.sizes]
        return torch.cat(parts).to(self.keep.device, non_blocking=True)


def teach(
    config: STTSConfig,
    tokens: Tensor,
    scores: Tensor | Sequence[Tensor],
    keep: Tensor,
    of_token: Tensor,
    sizes: Sequence[tuple[int, int]],
) -> tuple[Tensor, Relevance | None]:
    """The tokens that enter the LLM, unchanged, and what they teach the scorer once the loss has gone backward.

    tokens: (K, D); scores: (F, W) in [0, 1], or (T, W) of each video; keep: bool, a flag a window; of_token: (K,)
    int64, the window behind each token, counted through all videos, -1: none; sizes: T and W of each video. The loss
    is the mean over kept windows of later frames. A video without any gradient teaches nothing, but counts in that
    mean. The second is None where the settings ask for no relevance.
    """
    if not is_taught(config):
        return tokens, None
    if not isinstance(scores, Tensor):
        scores = torch.cat([x.flatten() for x in scores])
    heard: list[Tensor] = []  # apart from the loss, whose graph holds it
    count = max(num_kept_later(sizes, config.prune_ratio), 1)
    windows = Windows(sizes, keep.flatten(), of_token.to(keep.device, non_blocking=True))
    tokens, loss = _Teach.apply(tokens, scores.flatten(), windows, count, heard)
    return tokens, Relevance(loss, heard)


class _Teach(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, tokens: Tensor, scores: Tensor, windows: Windows, count: int, heard: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        norms = torch.linalg.vector_norm(tokens, dim=-1, dtype=torch.float32)
        ctx.save_for_backward(norms, scores)
        ctx.windows, ctx.count, ctx.heard = windows, count, heard
        return tokens.view_as(tokens), norms.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, weight: Tensor) -> tuple[Tensor | None, ...]:
        """gradient: (K, D), of the tokens; weight: (), of the loss."""
        norms, scores = ctx.saved_tensors
        gradients = torch.linalg.vector_norm(gradient, dim=-1, dtype=torch.float32)
        target, known = targets(gradients, norms, ctx.windows)
        s = scores.float().clamp(EPS, 1 - EPS)
        ctx.heard.append(_sums(target, s, known))
        slope = torch.where(known, (s - target) / (s * (1 - s)), 0)
        return gradient, (slope * (weight / ctx.count)).to(scores.dtype), None, None, None


def targets(gradients: Tensor, norms: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
    """The relevance of every window, (M,) float32 in [0, 1], and where it is to be learned, (M,) bool: in later
    frames, where the window was kept, of videos with any gradient.

    gradients, norms: (K,) float32, |g| and |f| of each token.
    """
    owner, video = windows.of_token, windows.video
    sizes = (gradients * norms).masked_fill(owner < 0, 0)
    by_window = sizes.new_zeros(len(video)).scatter_reduce(0, owner.clamp(0), sizes, "amax")
    greatest = sizes.new_zeros(len(windows.sizes)).scatter_reduce(0, video, by_window, "amax")[video]
    known = windows.keep & windows.later & (greatest > 0)
    return by_window / torch.where(greatest > 0, greatest, 1), known


def _sums(target: Tensor, scores: Tensor, known: Tensor) -> Tensor:
    """(SUMS,) float64."""
    r, s = target.double(), scores.double()
    loss = -(r * s.log() + (1 - r) * (1 - s).log())
    parts = (torch.ones_like(r), r, r.square(), s, s.square(), r * s, loss)
    return torch.stack([part.masked_fill(~known, 0).sum() for part in parts])
