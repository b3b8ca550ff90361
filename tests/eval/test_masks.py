"""Masks of windows in predictions: what is read is what was written, and what is damaged is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from stts.eval.masks import by_frame, pack_mask, unpack_mask


@given(arrays(bool, array_shapes(min_dims=3, max_dims=3, max_side=9)))
def test_a_mask_comes_back_as_it_was(keep: np.ndarray) -> None:
    packed = json.loads(json.dumps(pack_mask(keep)))
    assert len(packed["bits"]) <= keep.size / 6 + 4, "a bit a window"
    assert np.array_equal(unpack_mask(packed), keep)


@pytest.mark.parametrize(
    "mask",
    [
        {},
        {"shape": [2, 2], "bits": "AA=="},
        {"shape": [2, 2, 3], "bits": "AA=="},
        {"shape": [0, 2, 3], "bits": ""},
        {"shape": [1, 2, 3], "bits": "?"},
        {"shape": [1, 2, "3"], "bits": "AA=="},
        {"shape": [1, 2, 3], "bits": None},
        [1, 2],
    ],
)
def test_what_is_no_mask_is_refused(mask: Any) -> None:
    with pytest.raises(ValueError, match="what was kept cannot be read"):
        unpack_mask(mask)


@given(st.integers(1, 40), st.integers(1, 2))
def test_frames_that_are_seen_as_one_share_a_mask(frames: int, each: int) -> None:
    units = -(-frames // each)
    keep = np.arange(units)[:, None, None]
    assert by_frame(keep, frames).flatten().tolist() == [frame // each for frame in range(frames)]


def test_another_number_of_frames_is_refused() -> None:
    keep = np.ones((4, 2, 2), bool)
    with pytest.raises(ValueError, match="3 frames are shown now, what was kept was recorded of 4"):
        by_frame(keep, 3)
    with pytest.raises(ValueError, match="5 frames are shown now"):
        by_frame(keep, 5)
    with pytest.raises(ValueError, match="12 frames are shown now"):
        by_frame(keep, 12)
