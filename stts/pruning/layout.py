"""What the host knows about a batch before the model runs, so that the model never has to ask the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .selection import num_dropped, num_kept_later
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
    """Rows and columns of patches of each video's frames; (): whoever asks knows, because all are the same."""
    num_windows: int = 0
    """Of all videos, before any is dropped; 0 where nobody counted."""

    def kept_windows(self, num_windows: int, prune_ratio: float) -> list[int]:
        """Windows of each video that survive pruning, of num_windows a frame."""
        return [t * num_windows - num_dropped(t, num_windows, prune_ratio) for t in self.frames_per_video]

    def kept_later(self, prune_ratio: float, unit: int) -> int:
        """Windows of all videos that survive pruning, first frames aside. unit: side of a window in patches."""
        if self.grids:
            sizes = [window_grid(grid, unit) for grid in self.grids]
            windows = [rows * cols for rows, cols in sizes]
        else:
            windows = [self.num_windows // max(sum(self.frames_per_video), 1)] * len(self.frames_per_video)
        return num_kept_later(zip(self.frames_per_video, windows, strict=True), prune_ratio)

    def kept_lengths(self, num_windows: int, prune_ratio: float) -> list[int]:
        """Tokens of each row that survive pruning."""
        lengths = list(self.lengths)
        kept = self.kept_windows(num_windows, prune_ratio)
        for frames, windows, row in zip(self.frames_per_video, kept, self.video_rows, strict=True):
            lengths[row] -= frames * num_windows - windows
        return lengths

    @classmethod
    def read(
        cls,
        placeholders: Tensor,
        attention_mask: Tensor | None,
        frames: Sequence[int],
        grids: Sequence[tuple[int, int]],
        tokens: Sequence[int],
    ) -> BatchLayout:
        """The layout of videos of known sizes, the rest read off the tensors: one wait for the device.

        placeholders: (B, L) bool, True at those of videos; attention_mask: (B, L) or None; frames, grids, tokens: of
        each video, tokens being its placeholders. Raises ValueError when those of a row are not of whole videos.
        """
        counts = [placeholders.sum(1)]
        if attention_mask is not None:
            counts.append(attention_mask.sum(1))
        found, *lengths = torch.stack(counts).tolist()
        lengths = lengths[0] if lengths else [placeholders.shape[1]] * len(found)
        what = f"its videos, which need {list(tokens)} of them in turn"
        rows = _hand_out(tokens, found, what)
        return cls(tuple(frames), tuple(lengths), rows, tuple(map(tuple, grids)))

    @classmethod
    def from_tensors(
        cls, placeholders: Tensor, attention_mask: Tensor | None, video_grids: Tensor, num_windows: int
    ) -> BatchLayout:
        """Read the sizes off the tensors.

        placeholders: (B, L) bool, True at visual tokens; attention_mask: (B, L) or None; video_grids: (V, 3).
        Raises ValueError when the placeholders of a row are not those of whole videos.
        """
        frames = video_grids[:, 0].tolist()
        counts = placeholders.sum(1).tolist()
        lengths = (
            [placeholders.shape[1]] * len(counts)
            if attention_mask is None
            else attention_mask.sum(1).tolist()
        )
        return cls(tuple(frames), tuple(lengths), _rows_of_videos(frames, counts, num_windows))


def _rows_of_videos(frames: Sequence[int], counts: Sequence[int], num_windows: int) -> tuple[int, ...]:
    """Hand videos whose frames are all of one size out to the rows."""
    what = f"its videos of {list(frames)} frames with {num_windows} windows each"
    return _hand_out([t * num_windows for t in frames], counts, what)


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
