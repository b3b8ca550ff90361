from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers.models.molmo2.video_processing_molmo2 import arange_for_pooling

from stts.pruning.windows import first_frames, previous_frame, resolve_grid, spread, to_windows, window_index

grids = st.tuples(st.integers(1, 11), st.integers(1, 11))


@given(grids, st.integers(1, 4))
def test_windows_are_those_of_transformers(grid, pool):
    index = torch.arange(grid[0] * grid[1]).view(grid)
    expected, rows, cols = arange_for_pooling(index, pool, pool)
    assert torch.equal(window_index(grid, pool), expected)
    assert len(expected) == rows * cols


@given(grids, st.integers(1, 4))
def test_to_windows_gathers_the_index_with_zero_padding(grid, pool):
    x = torch.randn(2, grid[0] * grid[1], 3)
    index = window_index(grid, pool)
    padded = nn.functional.pad(x, (0, 0, 0, 1))  # the last row, -1, is zero
    assert torch.equal(to_windows(x, grid, pool), padded[:, index])


@given(grids, st.integers(1, 4))
def test_spread_gives_each_patch_its_window(grid, pool):
    index = window_index(grid, pool)
    values = torch.randn(2, len(index))
    patches = spread(values, grid, pool)
    for window, members in enumerate(index.tolist()):
        for patch in members:
            if patch >= 0:
                assert torch.equal(patches[:, patch], values[:, window])


def test_previous_frame_does_not_cross_videos():
    x = torch.arange(1.0, 6.0)[:, None]
    assert previous_frame(x, [2, 3]).flatten().tolist() == [0, 1, 0, 3, 4]
    assert first_frames([2, 3]).tolist() == [True, False, True, False, False]


def test_grid_must_hold_the_patches():
    assert resolve_grid(12, (3, 4)) == (3, 4)
    with pytest.raises(ValueError, match="must hold 10 patches"):
        resolve_grid(10, (3, 4))
