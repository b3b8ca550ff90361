"""What the host knows about a batch before the model runs, so that the model never has to ask the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .selection import num_kept_later
from .windows import window_grid


@dataclass(frozen=True)
class BatchLayout:
    """Sizes of one batch, as plain integers.

    The collator builds it for free; without it the model derives it from the tensors, which on a GPU costs one
    wait for the device.
    """

    frames_per_video: tuple[int, ...]
    """T of each video, in the order of their placeholders."""
    lengths: tuple[int, ...]
    """Real tokens of each row before pruning, padding left out."""
    video_rows: tuple[int, ...]
    """The batch row each video stands in."""
    grids: tuple[tuple[int, int], ...] = ()
    """Rows and columns of patches of each video's frames; (): all are the same, and the model knows them."""
    num_windows: int = 0
    """Of all videos, before any is dropped. 0: not counted."""

    def kept_later(self, prune_ratio: float, unit: int) -> int:
        """Windows of all videos that survive pruning, first frames aside. unit: side of a window in patches."""
        if self.grids:
            sizes = [window_grid(grid, unit) for grid in self.grids]
            windows = [rows * cols for rows, cols in sizes]
        else:
            windows = [self.num_windows // max(sum(self.frames_per_video), 1)] * len(self.frames_per_video)
        return num_kept_later(zip(self.frames_per_video, windows, strict=True), prune_ratio)

    @classmethod
    def read(
        cls,
        placeholders: Tensor,
        attention_mask: Tensor | None,
        frames: Sequence[int],
        grids: Sequence[tuple[int, int]],
        tokens: Sequence[int],
    ) -> BatchLayout:
        """The layout of videos whose sizes are known. The rest is read off the tensors: one wait for the device.

        placeholders: (B, L) bool, True at those of videos; attention_mask: (B, L) or None; frames, grids, tokens: T,
        patch grid and placeholders of each video. Raises ValueError when the placeholders of a row do not make up
        whole videos.
        """
        counts = [placeholders.sum(1)]
        if attention_mask is not None:
            counts.append(attention_mask.sum(1))
        found, *lengths = torch.stack(counts).tolist()
        lengths = lengths[0] if lengths else [placeholders.shape[1]] * len(found)
        what = f"its videos, which need {list(tokens)} of them in turn"
        rows = _hand_out(tokens, found, what)
        return cls(tuple(frames), tuple(lengths), rows, tuple(map(tuple, grids)))


def _hand_out(tokens: Sequence[int], counts: Sequence[int], what: str) -> tuple[int, ...]:
    """Hand the videos out to the rows in order, each row taking as many as its placeholders need."""
    rows, video = [], 0
    for row, count in enumerate(counts):
        while count > 0 and video < len(tokens):
            count -= tokens[video]
            rows.append(row)
            video += 1
        if count:
            raise ValueError(
                f"row {row} of input_ids has {counts[row]} visual placeholders, which does not match {what}"
            )
    if video < len(tokens):
        raise ValueError(f"{len(tokens)} videos given, but input_ids has placeholders for {video}")
    return tuple(rows)
