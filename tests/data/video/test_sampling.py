from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.molmo2.video_processing_molmo2 import Molmo2VideoProcessor

from stts.data.video.sampling import (
    choose_frames,
    frames_at,
    frames_at_any,
    instants,
    sample_like_transformers,
    sample_times,
)
from tests.helpers.paths import DATA

GOLDEN = json.loads((DATA / "sampling.json").read_text())


@pytest.mark.parametrize(
    ("duration", "frames", "max_fps", "expected"),
    [
        (3.0, 64, 2, [0, 0.5, 1, 1.5, 2, 2.5, 3]),
        (3.2, 64, 2, [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.2]),
        (3.0, 7, 2, [0, 0.5, 1, 1.5, 2, 2.5, 3]),  # just fits
        (3.0, 6, 2, [0, 0.6, 1.2, 1.8, 2.4, 3]),  # one too many
        (60.0, 5, 2, [0, 15, 30, 45, 60]),
        (4.0, 64, 1, [0, 1, 2, 3, 4]),
        (0.1, 8, 2, [0, 0.1]),
        (60.0, 2, 2, [0, 60]),
        (60.0, 1, 2, [0]),
        (0.0, 8, 2, [0, 0]),
        (0.0, 1, 2, [0]),
        (3.0000000001, 7, 2, [0, 0.5, 1, 1.5, 2, 2.5, 3]),  # rounding adds no instant
    ],
)
def test_sample_times(duration, frames, max_fps, expected):
    np.testing.assert_allclose(sample_times(duration, frames, max_fps), expected, atol=1e-6)


@given(st.floats(0, 1e5), st.integers(1, 400), st.floats(0.01, 60))
def test_sample_times_hold_the_budget_and_both_ends(duration, frames, max_fps):
    times = sample_times(duration, frames, max_fps)
    assert 1 <= len(times) <= frames
    assert times[0] == 0
    assert (np.diff(times) >= 0).all()
    if frames > 1:
        assert times[-1] == pytest.approx(duration)
        assert np.diff(times).max(initial=0) >= min(1 / max_fps, duration) - 1e-3  # never denser than max_fps


def test_frames_at_takes_the_frame_being_shown_and_none_twice():
    times = np.array([0, 0.1, 0.2, 1.0, 1.5])
    instants = np.array([0, 0.05, 0.1, 0.99, 1.0, 1.49999, 7])
    assert frames_at(times, instants).tolist() == [0, 1, 2, 3, 4]
    assert frames_at(times, np.array([0.3, 0.9])).tolist() == [2]


GAPS = st.lists(st.integers(1, 300), min_size=1, max_size=80)
"""Hundredths of a second each frame is shown."""
RATES = st.sampled_from([1.0, 2.0, 10.0, 23.976, 25.0, 29.97, 30.0, 59.94])


@given(GAPS, st.integers(1, 40), st.floats(0.2, 30), st.data())
def test_choose_frames_by_time_equals_a_slow_loop(gaps, frames, max_fps, data):
    starts = np.cumsum([0, *gaps[:-1]]) / 100
    duration = sum(gaps) / 100
    start = data.draw(st.floats(0, duration * 0.9))
    stop = data.draw(st.floats(start + duration * 0.05, duration))
    expected = []
    for instant in start + sample_times(stop - start, frames, max_fps):
        shown = max(n for n, begins in enumerate(starts) if begins <= instant + 1e-4)
        if shown not in expected:
            expected.append(shown)
    assert choose_frames(starts, duration, frames, max_fps, start, stop, "time").tolist() == expected


@given(GAPS, st.integers(1, 3000), st.floats(0.2, 3000), st.floats(0, 0.9))
def test_more_instants_than_frames_find_the_same_frames(gaps, frames, max_fps, share):
    times = np.cumsum([0, *gaps[:-1]]) / 100
    start, duration = share * sum(gaps) / 100, (1 - share) * sum(gaps) / 100
    count, instant = instants(duration, frames, max_fps)
    every = start + sample_times(duration, frames, max_fps)
    assert len(every) == count
    found = frames_at_any(times, count, lambda k: start + instant(k))
    assert found.tolist() == frames_at(times, every).tolist()


@pytest.mark.parametrize(("frames", "max_fps"), [(10**9, 1e9), (10**30, 1e308), (10**12, 0.5)])
def test_instants_without_end(frames, max_fps):
    times = np.array([0, 1e-3, 2e-3, 0.5, 1.0])
    numbers = choose_frames(times, 1.5, frames, max_fps, 0.0, 1.5, "time").tolist()
    assert numbers == ([0, 4] if max_fps < 1 else [0, 1, 2, 3, 4])
    numbers = choose_frames(times, 1.5, frames, max_fps, 2e-3, 0.7, "time").tolist()
    assert numbers == [2, 3]
    assert choose_frames(times, 1.5, frames, max_fps, 0.0, 1.5, "transformers").tolist()[0] == 0


def test_choose_frames_keeps_every_frame_of_a_slow_video():
    times = np.arange(10) * 4.0  # a frame every 4 s: nothing to skip and nothing to double
    assert choose_frames(times, 40.0, 64, 2, 0.0, 40.0, "time").tolist() == list(range(10))


def test_transformers_rule_equals_recorded_numbers():
    assert len(GOLDEN) == 60
    for row in GOLDEN:
        numbers = sample_like_transformers(row["total"], row["fps"], row["num_frames"], row["max_fps"])
        assert numbers.tolist() == row["indices"], row


@given(st.integers(1, 20000), RATES, st.integers(1, 384))
def test_transformers_rule_equals_transformers(total, fps, frames):
    metadata = SimpleNamespace(total_num_frames=total, fps=fps, duration=total / fps)
    settings = SimpleNamespace(max_fps=2, num_frames=64)
    theirs = Molmo2VideoProcessor.sample_frames(settings, metadata, num_frames=frames).tolist()
    ours = sample_like_transformers(total, fps, frames, 2).tolist()
    assert ours == theirs[: len(ours)]  # theirs may go on to a frame past the end
    assert all(number >= total for number in theirs[len(ours) :])
    assert len(ours) <= frames
    assert ours[-1] < total
    assert (np.diff(ours) > 0).all()


def test_transformers_rule_inside_a_range():
    times = np.arange(100) / 10
    numbers = choose_frames(times, 10.0, 4, 2.0, 2.0, 5.9, "transformers")
    assert numbers.tolist() == [20, 30, 40, 50]  # frames 20 to 59, a quarter of them apart
    assert choose_frames(np.zeros(1), 0.0, 4, 2.0, 0.0, 0.0, "transformers").tolist() == [0]
