"""What a serving engine is given of a video that was pruned inside the ViT: no engine is known here.

An engine lays a prompt out before the ViT runs. How many of a video's tokens survive it can know by then, which ones
it cannot: so all of the video's stretch, timestamps and markers too, is one run of placeholders, and what they stand
for comes afterwards, an embedding each. Whatever else has to reach the LLM travels in columns beside the embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..pruning.sequence import keep_tokens, plan_survivors

BASE = 256
"""Whole numbers up to this are exact in bfloat16: larger ones travel as two digits."""
MOST_TOKENS = BASE**2
"""Of a video, before any is dropped."""
COLUMNS = 5
"""Beside an embedding: its place in the stretch before pruning and after it, two digits each, and 1 where visual."""
VISUAL = INSIDE = -1
"""Marks in the second and third row of positions, which are 0 or more elsewhere."""


@dataclass(frozen=True)
class Span:
    """A video's stretch of a prompt, dropped windows gone."""

    ids: Tensor
    """(L_kept,) int64 tokens."""
    place: Tensor
    """(L_kept,) int64, where each stood before pruning."""
    visual: Tensor
    """(L_kept,) bool, those that see each other in both directions."""
    windows: Tensor
    """(K,) int64, places of the kept windows among the L_kept."""


@dataclass(frozen=True)
class Stretch:
    """Where a video stands in a prompt, as plain integers."""

    start: int
    kept: int
    """Tokens that survive: what it takes of the prompt."""
    total: int
    """Tokens before pruning."""


def lay_out(ids: Tensor, visual: Tensor, keep: Tensor, window_id: int, num_dropped: int) -> Span:
    """Take the placeholders of dropped windows out of a video's stretch. No size is read from the device.

    ids: (L,) tokens of the whole stretch, window_id at its windows; visual: (L,) bool; keep: (T, W) bool.
    """
    kept = keep_tokens((ids == window_id)[None], keep, None)
    survivors = plan_survivors(kept, len(ids) - num_dropped)
    place = survivors.index[0]
    ids = ids[place]
    num_windows = keep.numel() - num_dropped
    windows = (ids != window_id).byte().argsort(stable=True)[:num_windows]
    return Span(ids, place, visual[place], windows)


def embed(span: Span, table: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """Words and markers from the LLM's own table, visual features (K, D) added at their windows: (L_kept, D)."""
    embeds = table(span.ids)
    return embeds.index_add(0, span.windows, features.to(embeds.dtype))


def with_columns(embeds: Tensor, span: Span) -> Tensor:
    """(L_kept, D) -> (L_kept, D + COLUMNS), in the dtype of the embeddings."""
    rank = torch.arange(len(span.ids), device=embeds.device)
    columns = (span.place // BASE, span.place % BASE, rank // BASE, rank % BASE, span.visual)
    return torch.cat([embeds, torch.stack(columns, 1).to(embeds.dtype)], 1)


def read_columns(rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inverse of with_columns, of any of its rows: embeddings (n, D), place (n,), rank (n,), visual (n,) bool."""
    embeds, columns = rows[:, :-COLUMNS], rows[:, -COLUMNS:].long()
    place, rank = columns[:, 0] * BASE + columns[:, 1], columns[:, 2] * BASE + columns[:, 3]
    return embeds, place, rank, columns[:, 4].bool()


def first_positions(length: int, stretches: Sequence[Stretch], compact: bool) -> tuple[Tensor, int]:
    """Positions of a prompt as far as they are known before the ViT has run, and how far they run ahead of tokens.

    Returns (3, length) int64: the LLM's positions, VISUAL at visual tokens (none yet), INSIDE in the stretches of
    videos. What stands behind a video is right already; place_survivors puts right what stands in it.
    """
    rows = torch.zeros(3, length, dtype=torch.int64)
    rows[0] = torch.arange(length)
    ahead = 0
    for stretch in stretches:
        end = stretch.start + stretch.kept
        rows[2, stretch.start : end] = INSIDE
        if not compact:
            rows[0, end:] += stretch.total - stretch.kept
            ahead += stretch.total - stretch.kept
    return rows, ahead


def place_survivors(rows: Tensor, place: Tensor, rank: Tensor, visual: Tensor, compact: bool) -> Tensor:
    """first_positions' rows of a prompt with one video, with some of its survivors where read_columns says."""
    place, rank, visual = (x.to(rows.device) for x in (place, rank, visual))
    start = (rows[2] == INSIDE).byte().argmax()  # stays on the device
    rows = rows.clone()
    rows[0].index_copy_(0, start + rank, (start + (rank if compact else place)).to(rows.dtype))
    rows[1].index_copy_(0, start + rank, visual.to(rows.dtype) * VISUAL)
    return rows


def both_ways(visual: Tensor) -> Tensor:
    """(L,) -> (L, L) bool, the LLM's mask: tokens see earlier ones and themselves, visual ones all visual ones."""
    causal = torch.ones(len(visual), len(visual), dtype=torch.bool, device=visual.device).tril()
    return causal | (visual[:, None] & visual)


def videos_at_once(frames: Sequence[int], most: int) -> list[slice]:
    """Cut a batch of videos into groups of at most `most` frames; a longer video goes alone."""
    groups, start, held = [], 0, 0
    for i, count in enumerate(frames):
        if i > start and held + count > most:
            groups.append(slice(start, i))
            start, held = i, 0
        held += count
    return [*groups, slice(start, len(frames))] if frames else []
