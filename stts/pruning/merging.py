"""Policy "tome": windows are merged into others like them instead of being dropped.

Token Merging (Bolya et al. 2023, arXiv 2210.09461), changed to end at the budget of a pruned video and to keep
windows whole, as the adapter pools whole windows:

- Bipartite soft matching as in the paper: every other token is a source, the rest are targets, each source finds the
  target most like it by cosine, and the r best pairs merge, r constant from round to round. A token here is a window,
  described by the mean of its patches (in the paper: by its attention keys, averaged over heads).
- The tokens of all frames of a video are matched together, but its first frame only takes in, so that it stays whole.
- The paper merges r tokens in each block. Here as many rounds as there are blocks left follow one another after the
  block in which all policies prune; the blocks behind it then cost what they cost a pruned video.
- Patch j of a merged window is the mean of the patches j of all its members (size-weighted averaging). It stays at
  the place and in the frame of the target. From there on, logits of its key grow by log(size) (proportional
  attention).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .selection import num_dropped
from .windows import Grid, from_windows, to_windows

SOURCES_AT_ONCE = 2048
"""Rows of the similarity matrix that exist at a time."""


@torch.no_grad()
def match_windows(
    x: Tensor, frames_per_video: Sequence[int], grid: Grid, pool_width: int, prune_ratio: float, rounds: int
) -> Tensor:
    """The window each window merges into.

    x: (F, N, D) patches. Returns (F * W,) int64, flat window numbers; a window that stays is its own. Exactly
    num_dropped windows of each video do not stay, none of its first frame.
    """
    with torch.autocast(x.device.type, enabled=False):
        windows = to_windows(x.float(), grid, pool_width).mean(2)  # (F, W, D)
        owners, start = [], 0
        for video in windows.split(list(frames_per_video)):
            drop = num_dropped(*video.shape[:2], prune_ratio)
            owners.append(start + _match(video.flatten(0, 1), video.shape[1], drop, rounds))
            start += video.shape[0] * video.shape[1]
    return torch.cat(owners)


def _match(windows: Tensor, first_frame: int, drop: int, rounds: int) -> Tensor:
    """(n, D) -> (n,), `drop` of them merged away in about `rounds` rounds, none of the first `first_frame`."""
    owner = torch.arange(len(windows), device=windows.device)
    anchors, movable = owner[:first_frame], owner[first_frame:]
    at_once = -(-drop // rounds)
    sums = windows.clone()  # of all members: the direction of their mean
    while drop:
        sources, others = movable[::2], movable[1::2]
        targets = torch.cat([anchors, others])
        similarity, nearest = _most_similar(sums[sources], sums[targets])
        order = similarity.argsort(descending=True, stable=True)
        count = min(drop, at_once, len(sources))
        merged, into = sources[order[:count]], targets[nearest[order[:count]]]
        sums.index_add_(0, into, sums[merged])
        owner = torch.arange(len(windows), device=windows.device).index_copy(0, merged, into)[owner]
        movable = torch.cat([others, sources[order[count:]]]).sort().values
        drop -= count
    return owner


def _most_similar(sources: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine similarity of each source, (a, D), to the target, (b, D), most like it, and which: (a,) each."""
    targets = F.normalize(targets, dim=-1).T
    best = [(F.normalize(part, dim=-1) @ targets).max(1) for part in sources.split(SOURCES_AT_ONCE)]
    return torch.cat([b.values for b in best]), torch.cat([b.indices for b in best])


def merge(x: Tensor, owner: Tensor, grid: Grid, pool_width: int) -> Tensor:
    """Patches of windows that stay -> the means of all that merged into them, patch by patch.

    x: (F, N, D); owner: (F * W,) of match_windows. In a padded grid a member's patch is left out where the window
    that stays has padding at its place. Returns (F, N, D); a window that did not stay is 0 in it.
    """
    sums = _add_up(to_windows(x.float(), grid, pool_width), owner)
    sizes = merged_sizes(owner, x.shape[:2], grid, pool_width)
    return (from_windows(sums, grid, pool_width) / sizes[..., None]).to(x)


def merged_sizes(owner: Tensor, shape: tuple[int, int], grid: Grid, pool_width: int) -> Tensor:
    """How many patches each patch stands for, at least 1: (F, N) float32, shape being (F, N)."""
    ones = torch.ones(*shape, 1, device=owner.device)
    real = to_windows(ones, grid, pool_width)  # 0 where a grid was padded
    return from_windows(_add_up(real, owner), grid, pool_width)[..., 0].clamp(min=1)


def _add_up(windows: Tensor, owner: Tensor) -> Tensor:
    """(F, W, P, D), each window added to its owner: the same shape, 0 at windows that did not stay."""
    flat = windows.flatten(0, 1)
    return torch.zeros_like(flat).index_add(0, owner, flat).view_as(windows)
