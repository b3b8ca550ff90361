from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stts.eval.statistics import (
    difference_interval,
    effective_size,
    group_intervals,
    mcnemar_exact,
    share_interval,
)

Z = 1.959964
"""95 % of a normal distribution lie within so many standard deviations."""


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (17, 17, 0.8157, 1.0),
    ],
)
def test_independent_questions_have_the_interval_of_the_textbooks(
    right: int, n: int, low: float, high: float
):
    found = share_interval([1] * right + [0] * (n - right), range(n))
    assert found == pytest.approx((low, high), abs=6e-5)


def test_a_share_at_its_ends_is_what_would_not_surprise() -> None:
    """Wilson's ends are the shares from which the one found is 1.96 standard deviations away."""
    for right in range(13):
        for end in share_interval([1] * right + [0] * (12 - right), range(12)):
            if 0 < end < 1:
                assert abs(right / 12 - end) == pytest.approx(Z * math.sqrt(end * (1 - end) / 12), abs=1e-5)


def test_many_differences_have_the_normal_interval() -> None:
    gains = np.random.default_rng(0).choice([-1, 0, 1], size=4000, p=[0.1, 0.7, 0.2])
    low, high = difference_interval(gains, range(4000))
    deviation = gains.std() / math.sqrt(4000)
    assert low == pytest.approx(gains.mean() - Z * deviation, abs=0.03 * deviation)
    assert high == pytest.approx(gains.mean() + Z * deviation, abs=0.03 * deviation)


def test_few_differences_have_those_of_bonett_and_price() -> None:
    """4 of 10 better, 1 worse: one is added to both, two to all: (5 - 2) / 12, and its deviation."""
    low, high = difference_interval([1, 1, 1, 1, -1, 0, 0, 0, 0, 0], range(10))
    half = Z * math.sqrt((5 / 12 + 2 / 12 - (3 / 12) ** 2) / 12)
    assert (low, high) == pytest.approx((3 / 12 - half, 3 / 12 + half), abs=1e-6)


def test_questions_that_share_a_video_say_less() -> None:
    """20 questions a video, all right or all wrong: as sure as one question a video, not as twenty."""
    right = np.random.default_rng(1).random(200) < 0.6
    alone = share_interval(right, range(200))
    many = share_interval(right.repeat(20), np.arange(200).repeat(20).tolist())
    taken_for_independent = share_interval(right.repeat(20), range(4000))
    np.testing.assert_allclose(many, alone, atol=1e-3)
    assert np.diff(taken_for_independent) < 0.3 * np.diff(alone)


@pytest.mark.parametrize("interval", [share_interval, difference_interval])
def test_answers_that_are_all_alike_count_a_video_once(interval: Callable) -> None:
    for value in (0, 1):
        assert interval([value] * 20, ["only"] * 20) == interval([value], ["only"])
        assert interval([value] * 20, [i // 4 for i in range(20)]) == interval([value] * 5, range(5))
    assert share_interval([1] * 20, ["only"] * 20)[0] < 0.21
    assert difference_interval([0] * 20, range(20))[1] > 0.1


def test_questions_about_a_single_video_count_as_one() -> None:
    mixed = [1, 0] * 10
    assert effective_size(np.array(mixed), ["only"] * 20) == 1
    low, high = share_interval(mixed, ["only"] * 20)
    assert low < 0.1
    assert high > 0.9


def simulate(rng: np.random.Generator, videos: int, questions: int, share: float, rho: float) -> np.ndarray:
    """(V, Q) bool; answers about a video are correlated by rho."""
    if not rho:
        return rng.random((videos, questions)) < share
    total = (1 - rho) / rho
    difficulty = rng.beta(share * total, (1 - share) * total, size=videos)
    return rng.random((videos, questions)) < difficulty[:, None]


@pytest.mark.parametrize(
    ("videos", "questions", "share", "rho"),
    [(60, 5, 0.6, 0.33), (60, 5, 0.95, 0.3), (20, 10, 0.9, 0.2), (100, 15, 0.5, 0.1), (17, 1, 0.9, 0.0)],
)
def test_shares_are_covered_as_often_as_they_should(videos, questions, share, rho) -> None:
    rng, names, hits = np.random.default_rng(2), np.arange(videos).repeat(questions).tolist(), 0
    for _ in range(400):
        low, high = share_interval(simulate(rng, videos, questions, share, rho).ravel(), names)
        hits += low <= share <= high
    assert 0.92 <= hits / 400 <= 0.99


@pytest.mark.parametrize(("videos", "questions"), [(1, 20), (2, 30), (5, 20)])
def test_few_videos_are_covered_at_least_as_often(videos, questions) -> None:
    rng, names, hits = np.random.default_rng(3), np.arange(videos).repeat(questions).tolist(), 0
    for _ in range(200):
        low, high = share_interval(simulate(rng, videos, questions, 0.7, 0.2).ravel(), names)
        hits += low <= 0.7 <= high
    assert hits / 200 >= 0.95


@pytest.mark.parametrize(("videos", "questions", "rho"), [(60, 5, 0.3), (20, 10, 0.2), (40, 1, 0.0)])
def test_differences_are_covered_as_often_as_they_should(videos, questions, rho) -> None:
    """A second run that is right on an answer in five that the first has wrong, by videos."""
    rng, names, hits = np.random.default_rng(4), np.arange(videos).repeat(questions).tolist(), 0
    for _ in range(400):
        better = simulate(rng, videos, questions, 0.2, rho) * 1
        worse = simulate(rng, videos, questions, 0.1, rho) * (1 - better)
        low, high = difference_interval((better - worse).ravel(), names)
        hits += low <= 0.2 - 0.1 * 0.8 <= high
    assert 0.92 <= hits / 400 <= 0.99


def test_taking_shared_videos_for_independent_covers_less() -> None:
    rng, hits = np.random.default_rng(5), 0
    for _ in range(300):
        low, high = share_interval(simulate(rng, 60, 5, 0.6, 0.33).ravel(), range(300))
        hits += low <= 0.6 <= high
    assert hits / 300 < 0.87


def test_groups_are_judged_like_each_alone() -> None:
    rng = np.random.default_rng(6)
    right, videos = (rng.random(300) < 0.5).tolist(), rng.integers(40, size=300).tolist()
    groups = [list(range(0, 300, 3)), list(range(200))]
    found = group_intervals(share_interval, right, videos, groups)
    for part, interval in zip([range(300), *groups], found, strict=True):
        alone = share_interval([right[i] for i in part], [videos[i] for i in part])
        assert interval == pytest.approx(list(alone), abs=1e-6)


@given(st.lists(st.tuples(st.sampled_from([-1, 0, 1]), st.integers(0, 5)), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_intervals_lie_within_what_can_be_and_names_do_not_matter(rows: list[tuple[int, int]]) -> None:
    gains, videos = [row[0] for row in rows], [row[1] for row in rows]
    right = [abs(gain) for gain in gains]
    for interval, values, least in ((share_interval, right, 0), (difference_interval, gains, -1)):
        low, high = interval(values, videos)
        assert least <= low <= high <= 1
        assert high - low > 0.05
        assert low - 1e-9 <= np.mean(values) <= high + 1e-9
        assert interval(values, [f"v{video}" for video in videos]) == (low, high)
    assert 1 <= effective_size(np.array(right), videos) <= len(rows)
    low, high = difference_interval([-gain for gain in gains], videos)
    assert difference_interval(gains, videos) == pytest.approx((-high, -low))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: share_interval([1, 0], ["a"]), "2 values and 1 clusters"),
        (lambda: share_interval([], []), "0 values and 0 clusters"),
        (lambda: share_interval([1, 0.5], "ab"), "hold 0.5, must be of 0, 1"),
        (lambda: difference_interval([2], "a"), "hold 2.0, must be of -1, 0, 1"),
    ],
)
def test_values_that_do_not_fit(call: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


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
