"""Ragged frames: the surviving patches laid out as one varlen batch, or in bins of fixed capacity, and back.

One gather in, one scatter out, no size read back from the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask

from .flex import block_mask


@dataclass(frozen=True)
class Packing:
    """Where the surviving patches of F frames of N patches went."""

    index: Tensor
    """(K,) int64: survivors as flat patch numbers frame * N + patch, ascending."""
    cu_seqlens: Tensor
    """(F + 2,) int32: frame f holds tokens cu_seqlens[f] to cu_seqlens[f + 1]. The last segment is filler: tokens
    beyond the survivors, there only when K had to be an upper bound."""
    filler: int
    """Upper bound on the tokens of that last segment."""
    shape: tuple[int, int]
    """(F, N)."""

    @property
    def max_seqlen(self) -> int:
        """Upper bound on the length of a segment."""
        return max(self.shape[1], self.filler)

    def without_filler(self) -> Packing:
        """The survivors alone; waits for the device where there may be filler."""
        if not self.filler:
            return self
        num_kept = int(self.cu_seqlens[-2])
        cu_seqlens = self.cu_seqlens.clamp(max=num_kept)
        return Packing(self.index[:num_kept], cu_seqlens, 0, self.shape)

    def lengths(self) -> list[int]:
        """Tokens of each segment, on the host: waits for the device, so for CPU paths only."""
        return self.cu_seqlens.diff().tolist()

    @cached_property
    def block_mask(self) -> BlockMask:
        """Each segment sees itself, for flex attention."""
        places = torch.arange(len(self.index), device=self.index.device, dtype=torch.int32)
        return block_mask(torch.searchsorted(self.cu_seqlens, places, right=True, out_int32=True)[None])

    @cached_property
    def bins(self) -> tuple[Tensor, Tensor]:
        """Where bin_slots lays the tokens, in bins as long as the longest segment: planned once, for all blocks."""
        lengths = self.lengths()
        slots, segments = bin_slots(plan_bins(lengths, self.max_seqlen), lengths)
        return slots.to(self.index.device), segments.to(self.index.device)

    def positions(self) -> Tensor:
        """(F * N,) int64: place of each patch among the packed tokens; meaningless for a dropped patch."""
        places = torch.zeros(self.shape[0] * self.shape[1], dtype=torch.int64, device=self.index.device)
        return places.index_copy(0, self.index, torch.arange(len(self.index), device=self.index.device))


def plan_packing(keep: Tensor, num_kept: int, filler: int = 0) -> Packing:
    """Plan the varlen layout of a keep mask.

    keep: (F, N) bool, True where a patch survives; num_kept: how many do, too high by at most `filler`.
    """
    frames, patches = keep.shape
    order = keep.flatten().logical_not().byte().argsort(stable=True)  # (F * N,) survivors first, in order
    ends = keep.sum(1).cumsum(0)  # (F,)
    cu_seqlens = F.pad(ends, (1, 1))
    cu_seqlens[-1:].fill_(num_kept)  # a number set by index would be copied from the host, which waits
    return Packing(order[:num_kept], cu_seqlens.int(), filler, (frames, patches))


def pack(x: Tensor, packing: Packing) -> Tensor:
    """Gather the survivors: (F, N, ...) -> (K, ...), order kept."""
    return x.flatten(0, 1).index_select(0, packing.index)


def unpack(x: Tensor, packing: Packing) -> Tensor:
    """Scatter packed tokens back: (K, ...) -> (F, N, ...), zeros where a patch was dropped."""
    frames, patches = packing.shape
    dense = x.new_zeros(frames * patches, *x.shape[1:]).index_copy(0, packing.index, x)
    return dense.unflatten(0, (frames, patches))


def put_back_lone_frames(packing: Packing) -> Packing:
    """Give every frame that would be alone in its bin all of its patches back, as the published code does.

    Bins are those of plan_bins with room for one whole frame. Waits for the lengths. Returns the larger packing.
    """
    frames, patches = packing.shape
    bin_of = plan_bins(packing.lengths()[:frames], patches).bin_of
    alone = torch.tensor([b >= 0 and bin_of.count(b) == 1 for b in bin_of], device=packing.index.device)
    keep = alone.repeat_interleave(patches).index_fill(0, packing.index, True).view(frames, patches)
    return plan_packing(keep, int(keep.sum()))


@dataclass(frozen=True)
class Bins:
    """Segments laid into rows of fixed capacity, a segment never split."""

    bin_of: list[int]
    """Row of each segment; -1 for an empty one."""
    start_of: list[int]
    """First slot of each segment in its row."""
    num_bins: int
    capacity: int


def plan_bins(lengths: Sequence[int], capacity: int) -> Bins:
    """First-fit decreasing: longest first, each into the first row with room; ties in order.

    lengths: of each segment, 0 to capacity. Raises ValueError when one is longer than capacity. A max-tree over
    the free room finds the first row that fits in O(log n).
    """
    if lengths and max(lengths) > capacity:
        raise ValueError(f"a segment of {max(lengths)} does not fit into bins of {capacity}")
    order = sorted((i for i, length in enumerate(lengths) if length), key=lambda i: -lengths[i])
    leaves = 1 << max(len(order) - 1, 0).bit_length()
    room = [capacity] * (2 * leaves)  # room[1] is the root, row r is leaf leaves + r
    bin_of, start_of = [-1] * len(lengths), [0] * len(lengths)
    for i in order:
        node = 1
        while node < leaves:
            node = 2 * node if room[2 * node] >= lengths[i] else 2 * node + 1
        bin_of[i], start_of[i] = node - leaves, capacity - room[node]
        room[node] -= lengths[i]
        while node > 1:
            node //= 2
            most = max(room[2 * node], room[2 * node + 1])
            if room[node] == most:
                break  # nor does anything change above
            room[node] = most
    return Bins(bin_of, start_of, max(bin_of, default=-1) + 1, capacity)


def bin_slots(bins: Bins, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Slots of the tokens of consecutive segments.

    Returns slots (K,) int64, the place of each token in the flattened (bins, capacity), and segment ids
    (bins, capacity) int64, -1 where a slot is empty: two slots may see each other when their ids are equal.
    """
    slots = [
        torch.arange(length) + b * bins.capacity + start
        for b, start, length in zip(bins.bin_of, bins.start_of, lengths, strict=True)
    ]
    slots = torch.cat(slots) if slots else torch.zeros(0, dtype=torch.int64)
    owner = torch.arange(len(lengths)).repeat_interleave(torch.as_tensor(lengths, dtype=torch.int64))
    segments = torch.full((bins.num_bins * bins.capacity,), -1).index_copy(0, slots, owner)
    return slots, segments.view(bins.num_bins, bins.capacity)
