"""The hook: a ViT's blocks run dense, then scored, then on the surviving patches only.

Blocks 0..insert_after see every patch. Their output is scored; the next block runs dense with the scores as a key
bias; after it only kept patches exist, packed frame by frame, and attend within their frame. Policies that need no
features run on fewer frames from the start.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import KeyBias, Ragged
from .config import STTSConfig
from .merging import match_windows, merge, merged_sizes
from .packing import Packing, pack, plan_packing, put_back_lone_frames
from .policies import View, choose, kept_evenly
from .scorer import STTSScorer
from .selection import attention_bias, num_dropped
from .windows import Grid, check_frames, spread


@dataclass(frozen=True)
class PrunedFeatures:
    """What a pruning ViT hands on. R prefix tokens (CLS, registers) stand before the N patches of a frame."""

    hidden_states: dict[int, Tensor]
    """Output of each collected block at the survivors: (K, D), frame by frame."""
    packing: Packing
    """Where the survivors stood among the F * (R + N) tokens."""
    keep: Tensor
    """(F, W) bool, True = kept."""
    scores: Tensor
    """(F, W) float32, what the windows were ranked by; 1 and 0, kept or not, where nothing was ranked."""
    scored: Tensor
    """(F, N, D), the patch features that were scored."""


def drops_per_video(frames_per_video: Sequence[int], num_windows: int, prune_ratio: float) -> list[int]:
    """Windows each video loses."""
    return [num_dropped(frames, num_windows, prune_ratio) for frames in frames_per_video]


def build_scorer(dim: int, num_heads: int, num_blocks: int, stts: STTSConfig) -> STTSScorer:
    """A scorer of the size the settings ask for, on a ViT of this width, heads and blocks.

    Raises ValueError when the ViT has no block left to prune after the scored one and the biased one.
    """
    if stts.insert_after + 2 >= num_blocks:
        raise ValueError(
            f"insert_after is {stts.insert_after}, must leave blocks to prune: below "
            f"{num_blocks - 2} in a ViT of {num_blocks} blocks"
        )
    return STTSScorer(
        dim,
        stts.pool_width,
        stts.scorer_num_heads or num_heads,
        stts.scorer_hidden_dims,
        stts.scorer_activation,
    )


def run_pruned(
    blocks: Sequence[nn.Module],
    x: Tensor,
    scorer: STTSScorer,
    config: STTSConfig,
    frames_per_video: Sequence[int],
    grid: Grid,
    collect: Collection[int],
    num_prefix: int = 0,
    window_scores: Tensor | None = None,
) -> PrunedFeatures:
    """Run transformer blocks, pruning after block insert_after + 1, or before the first by policy "uniform".

    blocks: transformers layers, called as block(x, None, ...), their config prepared by attention.install; x:
    (F, R + N, D) embedded tokens, num_prefix = R; frames_per_video: T of each video, summing to F; collect: the
    zero-based blocks whose outputs are wanted; window_scores: (F, W) for policy "given". Raises ValueError for a
    policy that acts after the ViT, and as stts.pruning.policies.given does.
    """
    check_frames(len(x), frames_per_video)
    if config.stage not in ("frames", "vit"):
        raise ValueError(
            f"policy is {config.policy!r}, which drops nothing in a vision model: its place is {config.stage}"
        )
    view = View(x[:, num_prefix:], frames_per_video, grid, config.pool_width, config, scorer, window_scores)
    if config.stage == "frames":
        return _run_chosen_frames(blocks, x, view, collect, num_prefix)
    biased = config.insert_after + 1
    x, collected = run_dense(blocks[:biased], x, collect)
    view = replace(view, features=x[:, num_prefix:])
    owner = _owners(view, len(blocks) - biased - 1) if config.policy == "tome" else None
    keep, scores = choose(view) if owner is None else _stayed(owner, view)

    bias = key_bias(scores, config, frames_per_video, grid, num_prefix)
    x = blocks[biased](x, None if bias is None else KeyBias(bias))
    if biased in collect:
        collected[biased] = x

    packing = plan_survivors(keep, config, frames_per_video, grid, num_prefix)
    running = put_back_lone_frames(packing) if config.put_back else packing
    log_sizes = None
    if owner is not None:
        x, *merged = (_merge(hidden, owner, view, num_prefix) for hidden in (x, *collected.values()))
        collected = dict(zip(collected, merged, strict=True))
        log_sizes = pack(_sizes(owner, view, num_prefix), running).log()
    collected = {i: pack(hidden, packing) for i, hidden in collected.items()}
    x = pack(x, running)[None]  # (1, K, D)
    ragged = Ragged(running, config.attention, log_sizes)
    for i in range(biased + 1, len(blocks)):
        x = blocks[i](x, ragged)
        if i in collect:
            collected[i] = x[0, running.positions()[packing.index]] if config.put_back else x[0]
    return PrunedFeatures(collected, packing, keep, scores, view.features)


def run_dense(
    blocks: Sequence[nn.Module], x: Tensor, collect: Collection[int]
) -> tuple[Tensor, dict[int, Tensor]]:
    """Run blocks on every token, (F, R + N, D); returns the output of the last and of those in collect."""
    collected = {}
    for i, block in enumerate(blocks):
        x = block(x, None)
        if i in collect:  # held on to, a feature of every patch is costly
            collected[i] = x
    return x, collected


def _run_chosen_frames(
    blocks: Sequence[nn.Module], x: Tensor, view: View, collect: Collection[int], num_prefix: int
) -> PrunedFeatures:
    """Run only the frames that keep a window. Their other windows take part until the end."""
    keep, scores = choose(view)
    kept_of = kept_evenly(view.frames_per_video, view.shape[1], view.config.prune_ratio)
    frames = torch.tensor([f for f, kept in enumerate(kept_of) if kept])
    packing = plan_survivors(keep, view.config, view.frames_per_video, view.grid, num_prefix, len(frames))
    _, hidden = run_dense(blocks, x.index_select(0, frames.to(x.device, non_blocking=True)), collect)
    run_as = keep.any(1).cumsum(0) - 1  # (F,), the number of each frame among those that run
    tokens = x.shape[1]
    places = run_as[packing.index // tokens] * tokens + packing.index % tokens
    collected = {i: out.flatten(0, 1).index_select(0, places) for i, out in hidden.items()}
    return PrunedFeatures(collected, packing, keep, scores, view.features)


def _owners(view: View, rounds: int) -> Tensor:
    """(F * W,) int64, the window that each window merges into."""
    sizes = (view.frames_per_video, view.grid, view.pool_width, view.config.prune_ratio)
    return match_windows(view.features.detach(), *sizes, rounds)


def _stayed(owner: Tensor, view: View) -> tuple[Tensor, Tensor]:
    """(F, W) bool, windows that merged into none, and the same as numbers."""
    keep = (owner == torch.arange(len(owner), device=owner.device)).view(view.shape)
    return keep, keep.float()


def _merge(x: Tensor, owner: Tensor, view: View, num_prefix: int) -> Tensor:
    """(F, R + N, D) -> the same, patches that stay averaged with those that merged into them."""
    merged = merge(x[:, num_prefix:], owner, view.grid, view.pool_width)
    return torch.cat([x[:, :num_prefix], merged], 1) if num_prefix else merged


def _sizes(owner: Tensor, view: View, num_prefix: int) -> Tensor:
    """(F, R + N), how many tokens each stands for."""
    sizes = merged_sizes(owner, view.features.shape[:2], view.grid, view.pool_width)
    return F.pad(sizes, (num_prefix, 0), value=1.0)


def key_bias(
    scores: Tensor, config: STTSConfig, frames_per_video: Sequence[int], grid: Grid, num_prefix: int
) -> Tensor | None:
    """(F, W) -> (F, R + N), 0 on prefix tokens and on videos that lose nothing; None for unlearned policies."""
    if config.policy != "scorer":
        return None
    shape = (config.bias_floor, config.bias_norm, grid, config.bias_range)
    bias = attention_bias(scores, frames_per_video, config.pool_width, *shape)
    drops = drops_per_video(frames_per_video, scores.shape[1], config.prune_ratio)
    whole = [drop == 0 for drop, frames in zip(drops, frames_per_video, strict=True) for _ in range(frames)]
    if any(whole):
        bias = bias.masked_fill(torch.tensor(whole).to(bias.device, non_blocking=True)[:, None], 0)
    return F.pad(bias, (num_prefix, 0))


def plan_survivors(
    keep: Tensor,
    config: STTSConfig,
    frames_per_video: Sequence[int],
    grid: Grid,
    num_prefix: int,
    num_run: int | None = None,
) -> Packing:
    """Pack the patches of kept windows and the prefix tokens; sizes come from (T, W, ratio), never the device.

    num_run: how many frames keep a window, where the others' prefix tokens go too; None: all prefix tokens stay.
    """
    frames, windows = keep.shape
    p2, patches = config.pool_width**2, grid[0] * grid[1]
    prefix = torch.ones_like(keep[:, :1]) if num_run is None else keep.any(1, keepdim=True)
    run = frames if num_run is None else num_run
    kept = keep.numel() - sum(drops_per_video(frames_per_video, windows, config.prune_ratio))
    filler = run * (windows * p2 - patches)  # cells of a padded grid hold no patch
    tokens = torch.cat([prefix.expand(-1, num_prefix), spread(keep, grid, config.pool_width)], 1)
    return plan_packing(tokens, min(kept * p2, run * patches) + run * num_prefix, filler)
