"""What a training step did: sums that stay on the device, and the row of metrics.jsonl made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.processors.base import IGNORE
from ..pruning.windows import first_frames


def count(batch: dict[str, Any]) -> dict[str, int]:
    """What a batch on the host holds: supervised tokens (or examples, where these weigh the same), pairs of
    neighbouring frames, unpruned tokens."""
    layout, weights = batch["layout"], batch.get("loss_weights")
    return {
        "targets": int(
            (batch["labels"][:, 1:] != IGNORE).sum() if weights is None else weights.sum().round()
        ),
        "pairs": sum(layout.frames_per_video) - len(layout.frames_per_video),
        "tokens": sum(layout.lengths),
    }


def measure(out: Any, batch: dict[str, Any]) -> Tensor:
    """Sums over the windows of a forward pass, as (8,) float64 on its device: kept windows, all windows; number
    of scores, their sum, the sum of their squares; the same of the targets they are held against.

    out: the model's; what it says of windows is (F, W), or (T, W) of each video. Scores and targets are those of
    frames with a frame before them: only they decide.
    """
    frames = batch["layout"].frames_per_video
    if out.keep_windows is None:
        num_windows = batch["layout"].num_windows or len(batch.get("video_token_pooling", ()))
        sums = torch.tensor([num_windows, num_windows, *[0] * 6], dtype=torch.float64)
        return sums.to(out.lm_loss.device, non_blocking=True)
    scores = None if out.targets is None else out.scores  # else they are no scorer's
    if isinstance(out.keep_windows, Tensor):
        return _measured(out.keep_windows, scores, out.targets, frames)
    none = [None] * len(frames)
    videos = zip(out.keep_windows, scores or none, out.targets or none, frames, strict=True)
    return torch.stack([_measured(*video, (t,)) for *video, t in videos]).sum(0)


def _measured(keep: Tensor, scores: Tensor | None, targets: Tensor | None, frames: Sequence[int]) -> Tensor:
    kept = keep.double()
    later = ~first_frames(frames, kept.device)[:, None]
    sums = [kept.sum(), torch.full_like(kept[0, 0], kept.numel()), *_moments(scores, later)]
    return torch.stack([*sums, *_moments(targets, later)])


def _moments(x: Tensor | None, where: Tensor) -> list[Tensor]:
    """Number of values, their sum and the sum of their squares: (F, W) where (F, 1) is True."""
    if x is None:
        return [where.sum().double() * 0] * 3
    x = x.detach().double().masked_fill(~where, 0)
    return [where.sum().double() * x.shape[1], x.sum(), x.square().sum()]


class Churn:
    """How much of the kept set changed since the same examples were last seen.

    Remembers the keep masks of the first `capacity` examples, on their device. It starts anew when a run is
    resumed.
    """

    def __init__(self, capacity: int = 256) -> None:
        self.capacity = capacity
        self.masks: dict[str, Tensor] = {}

    def update(self, keep: Tensor | list[Tensor] | None, batch: dict[str, Any]) -> Tensor:
        """(2,) float64: windows kept last time and dropped now, windows kept last time.

        keep: (F, W) bool of a batch, or (T, W) of each video, or None.
        """
        layout = batch["layout"]
        gone = torch.zeros(2, dtype=torch.float64).to(batch["labels"].device)
        if keep is None or len(layout.frames_per_video) != len(batch["ids"]):
            return gone  # nothing was pruned, or there are examples without a video: masks have no names
        masks = keep.split(list(layout.frames_per_video)) if isinstance(keep, Tensor) else keep
        gone = gone.to(masks[0].device, non_blocking=True)
        for name, mask in zip(batch["ids"], masks, strict=True):
            before = self.masks.get(name)
            if before is not None and before.shape == mask.shape:
                gone += torch.stack([(before & ~mask)[1:].sum(), before[1:].sum()]).double()
            if before is not None or len(self.masks) < self.capacity:
                self.masks[name] = mask.clone()
        return gone


def metrics_row(sums: list[float], aux_weight: float, seconds: float) -> dict[str, float | None]:
    """The numbers of one step.

    sums: over its batches and processes: LM loss and auxiliary loss, each already weighted to add up to the
    mean; then what `measure` and `Churn.update` give; the gradient norm; tokens before pruning. Means and
    standard deviations are None when nothing was scored, churn when no example was seen before.
    """
    lm_loss, aux_loss, kept, windows, *rest, changed, compared, grad_norm, tokens = sums
    return {
        "loss": lm_loss + aux_weight * aux_loss,
        "lm_loss": lm_loss,
        "aux_loss": aux_loss,
        "kept": kept / windows if windows else 1.0,
        "grad_norm": grad_norm,
        **_mean_and_std("score", *rest[:3]),
        **_mean_and_std("target", *rest[3:]),
        "churn": changed / compared if compared else None,
        "tokens_per_s": tokens / seconds,
        "seconds": seconds,
    }


def _mean_and_std(name: str, number: float, total: float, squares: float) -> dict[str, float | None]:
    mean = total / number if number else None
    std = math.sqrt(max(0.0, squares / number - mean**2)) if number else None
    return {f"{name}_mean": mean, f"{name}_std": std}


def scorer_trouble(row: dict[str, Any]) -> str | None:
    """What is wrong with the scorer, in words, by the numbers of one step; None while it is healthy."""
    mean, std = row.get("score_mean"), row.get("score_std")
    if mean is None:
        return None
    slope = mean - mean**2 - std**2  # mean of s (1 - s), the slope of the sigmoid
    if slope < 0.01:
        return (
            f"the scorer is saturated: scores are {mean:.4f} on average, where the sigmoid is flat and no gradient "
            "comes back; lower train.lr.scorer, or start from another stts.scorer_bias"
        )
    if std < 1e-3:
        return (
            f"the scorer has collapsed: all scores are {mean:.3f} +- {std:.5f}, so what is kept is noise; raise "
            "train.lr.scorer, or lower train.lr.vision if target_std has collapsed too"
        )
    return None
