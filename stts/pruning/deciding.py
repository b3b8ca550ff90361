"""Which windows of a batch of videos stay, whatever the sizes of their frames and the order of memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .config import STTSConfig
from .memory import Clips, Described, Group, grouped
from .merging import match_windows
from .policies import View, choose
from .scorer import STTSScorer
from .vit import key_bias


@dataclass(frozen=True)
class Decision:
    """What was decided, of tokens as they lie in memory."""

    groups: list[Group]
    """The videos of one grid together, with keep, scores and scored."""
    keep: Tensor
    """(S,) bool: tokens of kept windows, and those that belong to none."""
    key_bias: Tensor | None
    """(S,) for policy "scorer"."""


def decide(
    host: Described,
    clips: Clips,
    config: STTSConfig,
    scorer: STTSScorer,
    window_scores: Tensor | Sequence[Tensor] | None,
    rounds: int,
    tokens: Tensor,
) -> Decision:
    """Score the windows, select which stay and bias the keys: the videos of one grid together.

    window_scores: what policy "given" ranks by; rounds: of merging, for policy "tome"; tokens: (S, D). Raises
    ValueError for window_scores that do not fit the videos, and when windows to merge share patches.
    """
    prefix, groups = host.num_prefix, grouped(host, clips, tokens.device)
    keep = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
    bias = torch.zeros(len(tokens), device=tokens.device) if config.policy == "scorer" else None
    for group in groups:
        group.scored = group.take(tokens, prefix)
        given = _given(window_scores, clips, group)
        view = View(group.scored, group.frames, group.grid, clips.unit, config, scorer, given)
        if config.policy == "tome":
            _match(group, view, rounds)
        else:
            group.keep, group.scores = choose(view)
        keep = group.put(keep, group.kept_cells(clips.unit), prefix)
        if bias is not None:
            bias = group.put(bias, key_bias(group.scores, config, group.frames, group.grid, 0), prefix)
    return Decision(groups, keep, bias)


def _given(scores: Tensor | Sequence[Tensor] | None, clips: Clips, group: Group) -> Tensor | None:
    """What policy "given" ranks the videos of a group by."""
    videos = len(clips.frames)
    if isinstance(scores, list | tuple) and len(scores) != videos:
        raise ValueError(
            f"window_scores is a list of {len(scores)}, must have an entry for each of {videos} videos"
        )
    if scores is None or len(group.videos) == videos:
        return torch.cat(list(scores)) if isinstance(scores, list | tuple) else scores
    if isinstance(scores, Tensor):
        scores = scores.split(list(clips.frames))
    return torch.cat([scores[v] for v in group.videos])


def _match(group: Group, view: View, rounds: int) -> None:
    """Policy "tome": which windows stay, and which merge into them."""
    if group.shared:
        raise ValueError("policy is 'tome', which cannot merge windows that share patches")
    sizes = (group.frames, group.grid, view.pool_width, view.config.prune_ratio)
    group.owner = match_windows(view.features.detach(), *sizes, rounds)
    stays = group.owner == torch.arange(len(group.owner), device=group.owner.device)
    group.keep = stays.view(view.shape)
    group.scores = group.keep.float()
