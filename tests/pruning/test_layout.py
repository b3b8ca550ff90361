"""Sizes of a batch of videos that differ in size, read off its tensors once."""

from __future__ import annotations

import pytest
import torch

from stts.pruning.layout import BatchLayout

SIZES = {"frames": (2, 1, 3), "grids": ((4, 4), (2, 4), (4, 6)), "tokens": (8, 2, 18)}


def test_videos_are_handed_out_to_the_rows_in_order():
    placeholders = torch.zeros(3, 25, dtype=torch.bool)
    placeholders[0, 3:13] = True  # the first two
    placeholders[2, 5:23] = True
    mask = torch.ones(3, 25, dtype=torch.long)
    mask[0, 20:] = 0
    layout = BatchLayout.read(placeholders, mask, **SIZES)
    assert layout == BatchLayout((2, 1, 3), (20, 25, 25), (0, 0, 2), ((4, 4), (2, 4), (4, 6)))
    assert BatchLayout.read(placeholders, None, **SIZES).lengths == (25, 25, 25)


def test_placeholders_that_are_not_of_whole_videos_are_named():
    placeholders = torch.zeros(2, 25, dtype=torch.bool)
    placeholders[0, :9] = True
    with pytest.raises(ValueError, match=r"row 0 of input_ids has 9 visual placeholders.* need \[8, 2, 18\]"):
        BatchLayout.read(placeholders, None, **SIZES)
    placeholders[0, 8:] = False
    with pytest.raises(ValueError, match="3 videos given, but input_ids has placeholders for 1"):
        BatchLayout.read(placeholders, None, **SIZES)
