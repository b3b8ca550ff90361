"""Evidence boxes -> windows: cases to check by hand, and overlap of areas computed one window at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stts.data.evidence import evidence_items, evidence_recall, evidence_scores, evidence_windows


def one(start: float, end: float, box: list[float]) -> list[dict]:
    return [{"start": start, "end": end, "box": box}]


@pytest.mark.parametrize(
    ("box", "windows"),
    [
        ([0.0, 0.0, 0.5, 0.5], [0]),  # borders are shared with windows 1, 2 and 3, areas are not
        ([0.5, 0.5, 1.0, 1.0], [3]),
        ([0.4, 0.1, 0.6, 0.2], [0, 1]),
        ([0.1, 0.4, 0.2, 0.6], [0, 2]),
        ([0.49, 0.49, 0.51, 0.51], [0, 1, 2, 3]),
        ([0.499999, 0.0, 0.75, 0.5], [1]),  # written as 0.5 and rounded
    ],
)
def test_windows_of_a_box(box: list[float], windows: list[int]) -> None:
    marked = evidence_windows(one(0.0, 1.0, box), [0.5], rows=2, cols=2)
    assert marked.shape == (1, 4)
    assert marked[0].nonzero()[0].tolist() == windows


def test_rows_come_before_columns() -> None:
    marked = evidence_windows(one(0, 1, [0.7, 0.6, 0.9, 0.9]), [0.0], rows=2, cols=3)
    assert marked[0].nonzero()[0].tolist() == [5]  # second row, third column


def test_start_is_included_and_end_is_not() -> None:
    marked = evidence_windows(one(0.5, 1.0, [0, 0, 1, 1]), [0.0, 0.5, 0.75, 1.0], rows=1, cols=1)
    assert marked[:, 0].tolist() == [False, True, True, False]


def test_events_add_up_and_none_marks_nothing() -> None:
    both = one(0, 1, [0, 0, 0.4, 0.4]) + one(1, 2, [0.6, 0.6, 1, 1])
    assert evidence_windows(both, [0.0, 1.5], 2, 2).tolist() == [
        [True, False, False, False],
        [False, False, False, True],
    ]
    assert not evidence_windows([], [0.0, 1.0], 2, 2).any()
    assert evidence_windows([], [], 2, 2).shape == (0, 4)


edges = st.integers(0, 1000).map(lambda n: n / 1000)


@given(
    st.lists(edges, min_size=2, max_size=2, unique=True).map(sorted),
    st.lists(edges, min_size=2, max_size=2, unique=True).map(sorted),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_marks_windows_that_share_an_area(x: list[float], y: list[float], rows: int, cols: int) -> None:
    marked = evidence_windows(one(0, 1, [x[0], y[0], x[1], y[1]]), [0.0], rows, cols)
    for row in range(rows):
        for col in range(cols):
            width = min(x[1], (col + 1) / cols) - max(x[0], col / cols)
            height = min(y[1], (row + 1) / rows) - max(y[0], row / rows)
            if min(width, height) > 1e-4:
                assert marked[0, row * cols + col]
            if min(width, height) < 0:
                assert not marked[0, row * cols + col]


@pytest.mark.parametrize(
    "bad",
    [
        one(1.0, 1.0, [0, 0, 1, 1]),
        one(0.0, 1.0, [0.5, 0, 0.5, 1]),
        one(0.0, 1.0, [0, 0.6, 1, 0.4]),
        one(0.0, 1.0, [0, 0, 1.1, 1]),
        one(0.0, 1.0, [-0.1, 0, 1, 1]),
        one(float("nan"), 1.0, [0, 0, 1, 1]),
    ],
)
def test_refuses_empty_or_outside(bad: list[dict]) -> None:
    with pytest.raises(ValueError, match="evidence is"):
        evidence_windows(bad, [0.0], 2, 2)


BRIEF = {"start": 0.75, "end": 1.25, "box": [0, 0, 0.3, 0.3]}  # window 0 of frame 2
LASTING = {"start": 0.0, "end": 9.0, "box": [0.4, 0, 0.9, 0.3]}  # windows 1 and 2 of all four frames
TIMES = np.arange(4) / 2


def test_recall_counts_lasting_evidence_once() -> None:
    items, keep = evidence_items([BRIEF, LASTING], TIMES, 3, 3), np.zeros((4, 9), dtype=bool)
    assert evidence_recall(items, keep) == 0
    keep[3, 1] = keep[0, 1] = True
    assert evidence_recall(items, keep) == pytest.approx(1 / 3)
    keep[2, 0] = True
    assert evidence_recall(items, keep) == pytest.approx(2 / 3)
    assert evidence_recall(items, np.ones_like(keep)) == 1
    late = BRIEF | {"start": 7.0, "end": 7.5}  # in no sampled frame
    for nothing in ([], [late]):
        assert evidence_recall(evidence_items(nothing, TIMES, 3, 3), keep) is None


def test_scores_of_an_oracle_prefer_brief_evidence() -> None:
    scores = evidence_scores(evidence_items([LASTING, BRIEF], TIMES, 3, 3))
    assert (scores.shape, scores.dtype) == ((4, 9), np.float32)
    assert scores[2, 0] == 1
    assert (scores[:, 1:3] == 0.25).all()
    assert scores.sum() == 1 + 8 * 0.25
    none = evidence_scores(evidence_items([], TIMES, 3, 3))
    assert none.shape == (4, 9)
    assert not none.any()
