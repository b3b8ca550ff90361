"""Taking the placeholders of dropped windows out of a token sequence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Survivors:
    """Which input positions survive, and where they stand afterwards."""

    keep: Tensor
    """(B, L) bool, True where a real token survives."""
    index: Tensor
    """(B, L_kept) int64, the input position behind each place."""
    valid: Tensor
    """(B, L_kept) bool, False at padding."""

    def take(self, x: Tensor | None, fill: int) -> Tensor | None:
        """(B, L) -> (B, L_kept), `fill` at padding; None stays None."""
        if x is None:
            return None
        return x.gather(1, self.index).masked_fill(~self.valid, fill)


def keep_tokens(placeholder: Tensor, keep_windows: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Which tokens survive: real ones that are no placeholder of a dropped window.

    placeholder: (B, L) bool, True at visual tokens, which row by row stand for the windows of keep_windows
    (F, W) bool in order; attention_mask: (B, L) or None. Returns (B, L) bool.
    """
    window = placeholder.flatten().cumsum(0) - 1  # (B * L,) number of the window each placeholder stands for
    kept = keep_windows.flatten()[window.clamp(0, keep_windows.numel() - 1)].view_as(placeholder)
    keep = kept | ~placeholder
    return keep if attention_mask is None else keep & attention_mask.bool()


def plan_survivors(
    keep: Tensor, length: int, left: bool | None = None, left_padded: Tensor | None = None
) -> Survivors:
    """Move the survivors of each row together, order kept.

    keep: (B, L) bool; length: L_kept, survivors of the longest row; left: pad on the left, or right, or (None) on
    the left when any row of left_padded (B,) bool says that its input was.
    """
    count = keep.sum(1, keepdim=True)
    place = torch.arange(length, device=keep.device)
    right = keep.logical_not().byte().argsort(dim=1, stable=True)[:, :length]  # survivors first
    if left is None and left_padded is None:
        left = False
    if left is False:
        return Survivors(keep, right, place < count)
    at_end = keep.byte().argsort(dim=1, stable=True)[:, -length:]  # survivors last
    if left:
        return Survivors(keep, at_end, place >= length - count)
    side = left_padded.any()
    return Survivors(
        keep, torch.where(side, at_end, right), torch.where(side, place >= length - count, place < count)
    )


def compact_positions(valid: Tensor, sequence_ids: Tensor | None = None) -> Tensor:
    """Positions 0, 1, 2, ... over the valid tokens of each row, restarting at each example of a packed row.

    valid: (B, L) bool; sequence_ids: (B, L) int or None. Returns (B, L) int64, 0 at padding.
    """
    position = (valid.long().cumsum(1) - 1).clamp(0)
    if sequence_ids is not None:
        starts = torch.ones_like(valid)
        starts[:, 1:] = sequence_ids[:, 1:] != sequence_ids[:, :-1]
        position = position - (position * starts).cummax(1).values
    return position.masked_fill(~valid, 0)
