from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stts.eval.statistics import RESAMPLES, mcnemar_exact, mean_intervals

Z = 1.959964
"""95 % of a normal distribution lie within so many standard deviations."""


def every_resample(values: list[float], clusters: list[int]) -> list[float]:
    """The mean of each of the V^V ways to draw V clusters, by loops."""
    names = sorted(set(clusters))
    parts = {name: [v for v, c in zip(values, clusters, strict=True) if c == name] for name in names}
    means = []
    for drawn in itertools.product(names, repeat=len(names)):
        together = [value for name in drawn for value in parts[name]]
        means.append(sum(together) / len(together))
    return means


@pytest.mark.parametrize(
    ("values", "clusters"),
    [
        ([1, 0, 1, 1, 0, 0], [0, 1, 2, 3, 4, 5]),
        ([1, 1, 1, 0, 0, 1, 0, 1, 1, 0], [0, 0, 0, 1, 1, 2, 3, 3, 4, 4]),  # clusters of unlike sizes
        ([1, -1, 0, 0, 1, 1], [0, 1, 2, 3, 4, 4]),  # differences of two runs
    ],
)
def test_intervals_are_those_of_all_resamples(values: list[float], clusters: list[int]) -> None:
    every = every_resample(values, clusters)
    ((low, high),) = mean_intervals(values, clusters, resamples=40_000)
    for share, found in ((0.025, low), (0.975, high)):
        around = np.quantile(every, [share - 0.004, share + 0.004], method="nearest")
        assert around[0] - 1e-9 <= found <= around[1] + 1e-9


def test_many_independent_questions_have_the_normal_interval() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(4000) < 0.7
    ((low, high),) = mean_intervals(right, range(4000))
    deviation = math.sqrt(right.mean() * (1 - right.mean()) / 4000)
    assert low == pytest.approx(right.mean() - Z * deviation, abs=0.1 * deviation)
    assert high == pytest.approx(right.mean() + Z * deviation, abs=0.1 * deviation)


def test_questions_that_share_a_video_say_less() -> None:
    """20 questions a video, all right or all wrong: as sure as one question a video, not as twenty."""
    right = np.random.default_rng(1).random(200) < 0.6
    alone = mean_intervals(right, range(200))
    many = mean_intervals(right.repeat(20), np.arange(200).repeat(20).tolist())
    taken_for_independent = mean_intervals(right.repeat(20), range(4000))
    np.testing.assert_allclose(many, alone)
    assert np.diff(taken_for_independent) < 0.3 * np.diff(alone)


def test_it_covers_the_truth_as_often_as_it_says() -> None:
    """Videos of 5 questions with a common difficulty, true accuracy 0.6, 300 studies of 60 videos."""
    rng, hits, naive = np.random.default_rng(2), 0, 0
    for _ in range(300):
        difficulty = rng.beta(1.2, 0.8, size=60)
        right = (rng.random((60, 5)) < difficulty[:, None]).ravel()
        videos = np.arange(60).repeat(5).tolist()
        ((low, high),) = mean_intervals(right, videos, resamples=400)
        hits += low <= 0.6 <= high
        ((low, high),) = mean_intervals(right, range(300), resamples=400)
        naive += low <= 0.6 <= high
    assert 0.91 <= hits / 300 <= 0.98
    assert naive / 300 < 0.87


def test_groups_are_judged_like_each_alone() -> None:
    rng = np.random.default_rng(3)
    right, videos = rng.random(300) < 0.5, rng.integers(40, size=300).tolist()
    members = np.stack([np.ones(300, bool), rng.random(300) < 0.5, np.arange(300) < 200], 1)
    together = mean_intervals(right, videos, members)
    for column in range(3):
        alone = mean_intervals(right, videos, members[:, column : column + 1])
        np.testing.assert_array_equal(together[column], alone[0])
    np.testing.assert_array_equal(together, mean_intervals(right, videos, members))
    assert (together != mean_intervals(right, videos, members, seed=1)).any()


def test_a_group_that_a_resample_misses_does_not_count() -> None:
    """Of two videos only one has the group: half of the resamples or more miss nothing of it."""
    members = np.array([[True, True], [True, False]])
    np.testing.assert_array_equal(mean_intervals([1, 0], ["a", "b"], members)[1], [1, 1])


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_intervals_lie_within_what_can_be_and_names_do_not_matter(rows: list[tuple[bool, int]]) -> None:
    right, videos = [row[0] for row in rows], [row[1] for row in rows]
    ((low, high),) = mean_intervals(right, videos, resamples=200)
    assert 0 <= low <= high <= 1
    assert mean_intervals(right, [f"v{video}" for video in videos], resamples=200).tolist() == [[low, high]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 0], ["a"]), "2 values, 1 clusters, 2 members"),
        (([1, 0], ["a", "b"], np.zeros((2, 1), bool)), "every group must have a question"),
    ],
)
def test_sizes_that_do_not_fit(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mean_intervals(*arguments)


def test_resamples_are_enough() -> None:
    """What another seed would change is a tenth of the interval at most."""
    right = np.random.default_rng(4).random(500) < 0.6
    intervals = np.concatenate([mean_intervals(right, range(500), seed=seed) for seed in range(5)])
    assert np.ptp(intervals, axis=0).max() < 0.1 * np.diff(intervals).mean()
    assert RESAMPLES == 5000


@pytest.mark.parametrize("tosses", range(9))
def test_mcnemar_counts_every_way_the_coins_can_fall(tosses: int) -> None:
    heads = Counter(sum(way) for way in itertools.product((0, 1), repeat=tosses))
    for only_a in range(tosses + 1):
        only_b = tosses - only_a
        as_far = [ways for found, ways in heads.items() if abs(2 * found - tosses) >= abs(only_a - only_b)]
        assert mcnemar_exact(only_a, only_b) == pytest.approx(min(1.0, sum(as_far) / 2**tosses))


def test_mcnemar_of_thousands() -> None:
    """The normal approximation with its correction of a half, which is good there."""
    z = (400 - 1) / math.sqrt(8200)
    assert mcnemar_exact(4300, 3900) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.02)
    assert mcnemar_exact(9, 1) == mcnemar_exact(1, 9) == pytest.approx(22 / 1024)
    with pytest.raises(ValueError, match="only_b is -1"):
        mcnemar_exact(3, -1)
