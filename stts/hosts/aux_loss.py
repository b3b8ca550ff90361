"""The loss that teaches the scorer of a VLM temporal redundancy, over videos of any sizes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..pruning.losses import novelty, score_error
from ..pruning.memory import Clips
from ..pruning.windows import Grid
from .encoding import Encoded, PerWindow


def aux_loss(
    model: nn.Module, encoded: Encoded | None, clips: Clips | None
) -> tuple[Tensor, PerWindow | None]:
    """The temporal loss of a batch and its targets.

    encoded, clips: its videos; None: there are none. Without scores it is a zero that still holds the scorer's
    parameters, so that data-parallel ranks without a video take part in its gradient; in lockstep none does.
    """
    scored = encoded is not None and encoded.scored is not None and any(clips.drops(model.stts.prune_ratio))
    if not scored or model.stts.policy != "scorer":
        held = () if model.lockstep else model.host.scorer.parameters()
        return sum((p.float().sum() * 0 for p in held), torch.zeros((), device=model.device)), None
    grids = list(dict.fromkeys(clips.grids))
    if len(grids) == 1:
        return _of_one_size(model, encoded.scores, encoded.scored, clips.frames, grids[0])
    losses, counts, across = [], [], model.stts.aux_across_videos
    targets: list[Tensor] = [None] * len(clips.frames)
    for grid in grids:
        videos = [v for v, other in enumerate(clips.grids) if other == grid]
        frames = [clips.frames[v] for v in videos]
        scores, scored = (torch.cat([x[v] for v in videos]) for x in (encoded.scores, encoded.scored))
        loss, found = _of_one_size(model, scores, scored, frames, grid)
        losses.append(loss)
        counts.append((sum(frames) - (1 if across else len(frames))) * scores.shape[1])
        for video, target in zip(videos, found.split(frames), strict=True):
            targets[video] = target
    total = max(sum(counts), 1)
    return sum(loss * (count / total) for loss, count in zip(losses, counts, strict=True)), targets


def _of_one_size(
    model: nn.Module, scores: Tensor, scored: Tensor, frames: Sequence[int], grid: Grid
) -> tuple[Tensor, Tensor]:
    """The same of videos whose frames have one patch grid: scores (F, W), scored (F, N, D)."""
    stts = model.stts
    scored = scored.detach() if stts.detach_targets else scored
    targets = novelty(scored, model.host.unit, grid)
    return score_error(scores, targets, frames, stts.aux_across_videos), targets.detach()
