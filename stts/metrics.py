"""What a training step did: sums that stay on the device, and the row of metrics.jsonl made of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .data.processing import IGNORE


def count(batch: dict[str, Any]) -> dict[str, int]:
    """What a batch on the host holds: supervised tokens, pairs of neighbouring frames, unpruned tokens."""
    layout = batch["layout"]
    return {
        "targets": int((batch["labels"][:, 1:] != IGNORE).sum()),
        "pairs": sum(layout.frames_per_video) - len(layout.frames_per_video),
        "tokens": sum(layout.lengths),
    }


def measure(out: Any, num_windows: int) -> Tensor:
    """Sums over the windows of a forward pass, as (5,) float64 on its device: kept windows, all windows;
    number of scores, their sum, the sum of their squares.

    out: STTSOutput; num_windows: of all videos, for a batch that lost none.
    """
    if out.keep_windows is None:
        return torch.tensor([num_windows, num_windows, 0, 0, 0], dtype=torch.float64).to(
            out.lm_loss.device, non_blocking=True
        )
    kept, scores = out.keep_windows.double(), out.scores.detach().double()
    number = torch.full_like(kept[0, 0], kept.numel())
    return torch.stack([kept.sum(), number, number, scores.sum(), scores.square().sum()])


def metrics_row(sums: list[float], aux_weight: float, seconds: float) -> dict[str, float | None]:
    """The numbers of one step.

    sums: over its batches and processes: LM loss and auxiliary loss, each already weighted to add up to the
    mean; then what `measure` gives; the gradient norm; tokens before pruning. score_mean and score_std are
    None when nothing was scored.
    """
    lm_loss, aux_loss, kept, windows, scores, score_sum, square_sum, grad_norm, tokens = sums
    mean = score_sum / scores if scores else None
    return {
        "loss": lm_loss + aux_weight * aux_loss,
        "lm_loss": lm_loss,
        "aux_loss": aux_loss,
        "kept": kept / windows if windows else 1.0,
        "grad_norm": grad_norm,
        "score_mean": mean,
        "score_std": math.sqrt(max(0.0, square_sum / scores - mean**2)) if scores else None,
        "tokens_per_s": tokens / seconds,
        "seconds": seconds,
    }
