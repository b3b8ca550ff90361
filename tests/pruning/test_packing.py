from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stts.pruning.packing import bin_slots, pack, plan_bins, plan_packing, unpack
from tests.helpers.goldens import case

masks = st.integers(1, 6).flatmap(
    lambda f: st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=f, max_size=f)
)


@given(masks)
def test_unpack_inverts_pack_and_order_is_kept(mask):
    keep = torch.tensor(mask)
    x = torch.arange(keep.numel() * 2.0).view(*keep.shape, 2) + 1
    packing = plan_packing(keep, int(keep.sum()))
    packed = pack(x, packing)
    assert torch.equal(packed, x[keep])
    assert torch.equal(unpack(packed, packing), x * keep[..., None])
    assert packing.lengths() == [*keep.sum(1).tolist(), 0]
    assert torch.equal(packing.positions()[keep.flatten()], torch.arange(int(keep.sum())))


def test_an_upper_bound_leaves_filler_in_a_segment_of_its_own():
    keep = torch.tensor([[True, False, True], [False, True, False]])
    packing = plan_packing(keep, 5, filler=2)
    assert packing.lengths() == [2, 1, 2]
    assert packing.index[:3].tolist() == [0, 2, 4]
    assert packing.without_filler().index.tolist() == [0, 2, 4]
    assert packing.without_filler().lengths() == [2, 1, 0]


@pytest.mark.parametrize("name", ["bernoulli", "windows", "two_empty", "full", "ties", "single", "grid27"])
def test_bins_equal_the_published_ones(name):
    data = case("pack", name)
    lengths = data["kept_count"].tolist()
    bins = plan_bins(lengths, 729 if name == "grid27" else 81)
    tie = "_ties_in_frame_order" if name == "grid27" else ""
    assert bins.num_bins == data["n_bins"]
    for frame, length in enumerate(lengths):
        if length:
            assert bins.bin_of[frame] == data["bin" + tie][frame]
            assert bins.start_of[frame] == data["start" + tie][frame]


@given(st.lists(st.integers(0, 20), max_size=30))
def test_bins_are_first_fit_decreasing(lengths):
    bins = plan_bins(lengths, 20)
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not lengths[i]:
            assert bins.bin_of[i] == -1
            continue
        fits = next((b for b, free in enumerate(room) if free >= lengths[i]), len(room))
        if fits == len(room):
            room.append(20)
        assert (bins.bin_of[i], bins.start_of[i]) == (fits, 20 - room[fits])
        room[fits] -= lengths[i]
    assert bins.num_bins == len(room)
    slots, segments = bin_slots(bins, lengths)
    assert len(set(slots.tolist())) == sum(lengths)
    owners = [i for i, length in enumerate(lengths) for _ in range(length)]
    assert segments.flatten()[slots].tolist() == owners


def test_a_segment_longer_than_a_bin_is_an_error():
    with pytest.raises(ValueError, match="a segment of 5 does not fit into bins of 4"):
        plan_bins([3, 5], 4)
