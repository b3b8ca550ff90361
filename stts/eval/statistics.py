"""How sure an accuracy is: bootstrap intervals, and whether two runs over the same questions differ.

Questions about one video share its difficulty, so they are not independent draws: the bootstrap draws videos with
replacement, each with all of its questions. Where every question has a video of its own this is the ordinary
bootstrap over questions; where twenty share one, intervals are wider than that one claims.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

LEVEL = 0.95
RESAMPLES = 5000
CHUNK = 250
"""Resamples held in memory at a time."""


def mean_intervals(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    members: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """95 % percentile bootstrap intervals of means over questions, drawing whole clusters.

    values: (n,), 1 for a right answer and 0 for a wrong one, or a difference of such; clusters: (n,), the video each
    question is about; members: (n, L) bool, the questions of each of L groups, one group of all by default. Every
    group is judged on the same resamples; a resample without any of its questions does not count for it. Returns
    (L, 2), low and high, the same for the same seed. Raises ValueError when the sizes do not fit, or for an
    empty group.
    """
    values = np.asarray(values, dtype=np.float64)
    members = np.ones((len(values), 1), bool) if members is None else np.asarray(members, bool)
    if not len(values) == len(clusters) == len(members):
        raise ValueError(
            f"{len(values)} values, {len(clusters)} clusters, {len(members)} members: must agree"
        )
    if not members.any(0).all():
        raise ValueError("every group must have a question")
    sums, counts = _per_cluster(values[:, None] * members, clusters), _per_cluster(members, clusters)
    means = _resampled_means(sums, counts, resamples, seed)
    tail = (1 - LEVEL) / 2
    return np.nanquantile(means, [tail, 1 - tail], axis=0).T


def group_intervals(
    values: Sequence[float], clusters: Sequence[Hashable], groups: Sequence[Sequence[int]]
) -> list[list[float]]:
    """mean_intervals, [low, high] each, of all questions and then of each group of places among them."""
    members = np.zeros((len(values), 1 + len(groups)), bool)
    members[:, 0] = True
    for column, places in enumerate(groups, start=1):
        members[places, column] = True
    return mean_intervals(values, clusters, members).round(6).tolist()


def _per_cluster(columns: np.ndarray, clusters: Sequence[Hashable]) -> np.ndarray:
    """(n, L) -> (V, L), summed over the questions of each cluster."""
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    total = np.zeros((len(numbers), columns.shape[1]))
    np.add.at(total, [numbers[cluster] for cluster in clusters], columns)
    return total


def _resampled_means(sums: np.ndarray, counts: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """(V, L) each -> (resamples, L), NaN where a resample has no question of a group."""
    rng, (num_clusters, _) = np.random.default_rng(seed), sums.shape
    means = []
    for first in range(0, resamples, CHUNK):
        size = min(CHUNK, resamples - first)
        drawn = rng.integers(num_clusters, size=(size, num_clusters))
        drawn += num_clusters * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * num_clusters).reshape(size, num_clusters)
        with np.errstate(invalid="ignore"):
            means.append((times @ sums) / (times @ counts))
    return np.concatenate(means)


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value of McNemar's test.

    only_a, only_b: questions that only the one, or only the other, of two runs got right. Were both equally good,
    each of these would fall to either side like a fair coin; questions on which they agree say nothing. The test
    takes questions for independent.
    """
    if only_a < 0 or only_b < 0:
        raise ValueError(f"only_a is {only_a} and only_b is {only_b}, must be counts")
    tosses, ways, tail = only_a + only_b, 1, 1  # ways: tosses over k, from k = 0 on
    for k in range(min(only_a, only_b)):
        ways = ways * (tosses - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**tosses)
