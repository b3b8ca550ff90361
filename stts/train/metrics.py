"""What a training step did: sums that stay on the device, and the row of metrics.jsonl made of them.

Sums are dicts of named scalars. Only `read_sums` puts them in a row of numbers, for one transfer of many steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.processors.base import IGNORE
from ..pruning.config import STTSConfig
from ..pruning.relevance import SUMS, is_taught
from ..pruning.windows import first_frames

MOMENTS = ("count", "sum", "squares")
"""Of scores and targets; their means and standard deviations are made of them."""


def count(batch: dict[str, Any], stts: STTSConfig) -> dict[str, int]:
    """What a batch on the host holds. targets: supervised tokens, or examples where these weigh the same; pairs: of
    neighbouring frames; taught: windows kept of later frames, which relevance is learned from; tokens: before
    pruning."""
    layout, weights = batch["layout"], batch.get("loss_weights")
    return {
        "targets": num_targets(batch) if weights is None else int(weights.sum().round()),
        "pairs": sum(layout.frames_per_video) - len(layout.frames_per_video),
        "taught": layout.kept_later(stts.prune_ratio, stts.pool_width) if is_taught(stts) else 0,
        "tokens": sum(layout.lengths),
    }


def num_targets(batch: dict[str, Any]) -> int:
    """Tokens of a batch on the host that the tokens before them are trained to predict."""
    return int((batch["labels"][:, 1:] != IGNORE).sum())


def measure(out: Any, batch: dict[str, Any]) -> dict[str, Tensor]:
    """Sums over the windows of a forward pass: () float64 each, on its device.

    kept, windows: kept and all windows; score_count, score_sum, score_squares: number of scores, their sum, the sum
    of their squares; target_...: the same of the targets they are held against. out: the model's; its windows are (F,
    W), or (T, W) of each video. Scores and targets of first frames are left out, as they decide nothing.
    """
    frames = batch["layout"].frames_per_video
    if out.keep_windows is None:
        num_windows = batch["layout"].num_windows or len(batch.get("video_token_pooling", ()))
        sums = torch.tensor([num_windows, 0], dtype=torch.float64).to(out.lm_loss.device, non_blocking=True)
        names = [f"{of}_{what}" for of in ("score", "target") for what in MOMENTS]
        return {"kept": sums[0], "windows": sums[0]} | dict.fromkeys(names, sums[1])
    scores = None if out.targets is None else out.scores  # else they are no scorer's
    if isinstance(out.keep_windows, Tensor):
        return _measured(out.keep_windows, scores, out.targets, frames)
    none = [None] * len(frames)
    videos = zip(out.keep_windows, scores or none, out.targets or none, frames, strict=True)
    sums = [_measured(*video, (t,)) for *video, t in videos]
    return {name: torch.stack([of_one[name] for of_one in sums]).sum(0) for name in sums[0]}


def _measured(
    keep: Tensor, scores: Tensor | None, targets: Tensor | None, frames: Sequence[int]
) -> dict[str, Tensor]:
    """measure, of windows that are all (F, W)."""
    kept = keep.double()
    later = ~first_frames(frames, kept.device)[:, None]
    sums = {"kept": kept.sum(), "windows": torch.full_like(kept[0, 0], kept.numel())}
    return sums | _moments("score", scores, later) | _moments("target", targets, later)


def _moments(name: str, x: Tensor | None, where: Tensor) -> dict[str, Tensor]:
    """MOMENTS of those of (F, W) where (F, 1) is True, () float64 each; 0 for None."""
    if x is None:
        return {f"{name}_{what}": where.sum().double() * 0 for what in MOMENTS}
    x = x.detach().double().masked_fill(~where, 0)
    return {
        f"{name}_count": where.sum().double() * x.shape[1],
        f"{name}_sum": x.sum(),
        f"{name}_squares": x.square().sum(),
    }


def relevance_sums(out: Any, stts: STTSConfig) -> dict[str, Tensor]:
    """What a pass has taught of relevance, after its backward pass: SUMS by name, () float64 each; {} where the
    settings ask for none."""
    if not stts.relevance_weight:
        return {}
    sums = None if out.relevance is None else out.relevance.sums
    if sums is None:
        sums = torch.zeros(len(SUMS), dtype=torch.float64).to(out.lm_loss.device, non_blocking=True)
    return {f"relevance_{name}": x for name, x in zip(SUMS, sums.unbind(), strict=True)}


class Churn:
    """How much of the kept set changed since the same examples were last seen.

    Remembers the keep masks of the first `capacity` examples, on their device. It starts anew when a run is
    resumed.
    """

    def __init__(self, capacity: int = 256) -> None:
        self.capacity = capacity
        self.masks: dict[str, Tensor] = {}

    def update(
        self, keep: Tensor | list[Tensor] | None, batch: dict[str, Any], device: torch.device
    ) -> dict[str, Tensor]:
        """churned: windows kept last time and dropped now; compared: windows kept last time. () float64 each, on the
        device, which that of the batch need not be.

        keep: (F, W) bool of a batch, or (T, W) of each video, or None.
        """
        return dict(zip(("churned", "compared"), self._changes(keep, batch, device).unbind(), strict=True))

    def _changes(self, keep: Tensor | None, batch: dict[str, Any], device: torch.device) -> Tensor:
        """(2,): the numbers of update."""
        layout = batch["layout"]
        gone = torch.zeros(2, dtype=torch.float64, device=device)
        if keep is None or len(layout.frames_per_video) != len(batch["ids"]):
            return gone  # nothing was pruned, or there are examples without a video: masks have no names
        masks = keep.split(list(layout.frames_per_video)) if isinstance(keep, Tensor) else keep
        for name, mask in zip(batch["ids"], masks, strict=True):
            before = self.masks.get(name)
            if before is not None and before.shape == mask.shape:
                gone += torch.stack([(before & ~mask)[1:].sum(), before[1:].sum()]).double()
            if before is not None or len(self.masks) < self.capacity:
                self.masks[name] = mask.clone()
        return gone


def add_up(passes: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The sums of several forward passes, () each, added up by name."""
    names = list(passes[0])
    table = torch.stack([torch.stack([sums[name] for name in names]) for sums in passes])
    return dict(zip(names, table.sum(0).unbind(), strict=True))


def read_sums(
    measured: Sequence[Mapping[str, Tensor]],
    counted: Sequence[Mapping[str, float]],
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> list[dict[str, float]]:
    """The sums of some steps as plain numbers. Waits for the device.

    measured: of each step, () float64 on the device; counted: of each step, on the host, under other names; reduce:
    adds a tensor up over all processes.
    """
    names, more = list(measured[0]), list(counted[0])
    table = torch.stack([torch.stack([sums[name] for name in names]) for sums in measured])
    of_host = torch.tensor([[sums[name] for name in more] for sums in counted], dtype=torch.float64)
    table = torch.cat([table, of_host.to(table.device)], 1)  # (steps, names)
    rows = (reduce(table) if reduce else table).tolist()
    return [dict(zip(names + more, row, strict=True)) for row in rows]


def metrics_row(sums: Mapping[str, float], stts: STTSConfig, seconds: float) -> dict[str, float | None]:
    """The numbers of one step.

    sums: over its batches and processes. lm_loss and aux_loss are weighted already, so that they add up to the
    mean; unpruned_tokens: tokens before pruning; taught: windows that relevance is a mean over; grad_norm; and
    those of `measure`, `relevance_sums` and `Churn.update`. Means and standard deviations are None when nothing was
    scored, churn when no example was seen before.
    """
    relevance = _relevance(sums) if "relevance_count" in sums else {}
    loss = sums["lm_loss"] + stts.aux_loss_weight * sums["aux_loss"]
    return {
        "loss": loss + stts.relevance_weight * relevance.get("relevance_loss", 0.0),
        "lm_loss": sums["lm_loss"],
        "aux_loss": sums["aux_loss"],
        **relevance,
        "kept": sums["kept"] / sums["windows"] if sums["windows"] else 1.0,
        "grad_norm": sums["grad_norm"],
        **_mean_and_std("score", sums),
        **_mean_and_std("target", sums),
        "churn": sums["churned"] / sums["compared"] if sums["compared"] else None,
        "tokens_per_s": sums["unpruned_tokens"] / seconds,
        "seconds": seconds,
    }


def _mean_and_std(name: str, sums: Mapping[str, float]) -> dict[str, float | None]:
    number, total, squares = (sums[f"{name}_{what}"] for what in MOMENTS)
    mean = total / number if number else None
    std = math.sqrt(max(0.0, squares / number - mean**2)) if number else None
    return {f"{name}_mean": mean, f"{name}_std": std}


def _relevance(sums: Mapping[str, float]) -> dict[str, float | None]:
    """The loss, mean and standard deviation of the relevance of kept windows, and its correlation with their
    scores."""
    n, total, squares, scores, score_squares, products, loss = (sums[f"relevance_{name}"] for name in SUMS)
    found: dict[str, float | None] = {"relevance_loss": loss / max(1.0, sums["taught"])}
    if not n:
        return found | dict.fromkeys(("relevance_mean", "relevance_std", "relevance_corr"))
    mean, score = total / n, scores / n
    spread, score_spread = (
        max(0.0, x / n - m * m) ** 0.5 for x, m in ((squares, mean), (score_squares, score))
    )
    both = spread * score_spread
    correlation = (products / n - mean * score) / both if both > 1e-12 else None
    return found | {"relevance_mean": mean, "relevance_std": spread, "relevance_corr": correlation}


def relevance_trouble(row: Mapping[str, Any]) -> str | None:
    """What is wrong with what relevance teaches, in words, by the numbers of one step; None while it says
    something."""
    if "relevance_mean" not in row:
        return None
    mean, std = row["relevance_mean"], row["relevance_std"]
    if mean is None:
        return (
            "relevance teaches nothing: no gradient of the answers reaches a window that a score kept; are there "
            "answers in this data, and windows beside the first frames at this prune_ratio?"
        )
    if std < 0.01:
        return (
            f"relevance says nothing: it is {mean:.3f} +- {std:.4f} in all kept windows; the model may not look at "
            "the video yet, or stts.relevance_weight is better 0 here"
        )
    return None


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
