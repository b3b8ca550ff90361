from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stts.pruning.layout import BatchLayout
from stts.pruning.sequence import compact_positions, keep_tokens, plan_survivors

rows = st.integers(1, 4).flatmap(
    lambda b: st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=b, max_size=b)
)


def test_dropped_placeholders_and_padding_go():
    placeholder = torch.tensor([[0, 1, 1, 0, 0, 0], [1, 1, 0, 1, 1, 0]]).bool()
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    windows = torch.tensor([[True, False], [False, True], [True, False]])
    keep = keep_tokens(placeholder, windows, mask)
    assert keep.int().tolist() == [[1, 1, 0, 1, 0, 0], [0, 1, 1, 1, 0, 1]]


@given(rows, st.booleans())
def test_survivors_move_together_in_order(keep, left):
    keep = torch.tensor(keep)
    x = torch.arange(1, keep.numel() + 1).view_as(keep)
    length = max(int(keep.sum(1).max()), 1)
    taken = plan_survivors(keep, length, left).take(x, 0)
    for row, mask, out in zip(x, keep, taken, strict=True):
        kept = row[mask].tolist()
        padding = [0] * (length - len(kept))
        assert out.tolist() == (padding + kept if left else kept + padding)


@pytest.mark.parametrize("left", [True, False])
def test_the_side_of_the_padding_follows_the_input(left):
    keep = torch.tensor([[1, 0, 1], [1, 0, 0]]).bool()
    survivors = plan_survivors(keep, 2, left_padded=torch.tensor([False, left]))
    assert survivors.valid.tolist() == [[True, True], [False, True] if left else [True, False]]


def test_compact_positions_restart_at_each_example():
    valid = torch.tensor([[1, 1, 1, 1, 0]]).bool()
    assert compact_positions(valid).tolist() == [[0, 1, 2, 3, 0]]
    examples = torch.tensor([[0, 0, 1, 1, -1]])
    assert compact_positions(valid, examples).tolist() == [[0, 1, 0, 1, 0]]


def test_layout_is_read_off_the_tensors():
    placeholder = torch.tensor([[1, 1, 0, 1, 1], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0]]).bool()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]])
    layout = BatchLayout.read(placeholder, mask, (1, 1, 1), (), (2, 2, 2))
    assert layout == BatchLayout((1, 1, 1), (5, 2, 4), (0, 0, 2))
