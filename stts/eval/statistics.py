"""How sure an accuracy is: intervals over videos, and whether two runs over the same questions differ.

Questions about one video share its difficulty, so n of them say less than n independent ones: as much as
n / (1 + (m - 1) * rho), where m is how many questions share a video and rho how alike their answers are. With that
many, a share gets Wilson's interval (1927) and a difference of two runs that of Bonett and Price (2012): both stay
honest where every answer is right, or none, and where there are few videos. Where every question has a video of its
own these are the ordinary ones.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from math import sqrt
from statistics import NormalDist

import numpy as np

LEVEL = 0.95
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)

Interval = tuple[float, float]


def share_interval(right: Sequence[float], clusters: Sequence[Hashable]) -> Interval:
    """95 % interval of a share of right answers.

    right: (n,), 1 for a right answer, 0 for a wrong one; clusters: (n,), the video of each. Raises ValueError when
    the sizes differ or are 0, and for any other value.
    """
    values = _checked(right, clusters, (0, 1))
    n, share = effective_size(values, clusters), float(values.mean())
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def difference_interval(gains: Sequence[float], clusters: Sequence[Hashable]) -> Interval:
    """95 % interval of the mean of paired differences.

    gains: (n,), 1 where only the second of two runs is right, -1 where only the first is, else 0; clusters and errors
    as share_interval.
    """
    values = _checked(gains, clusters, (-1, 0, 1))
    n = effective_size(values, clusters)
    better = (float((values > 0).mean()) * n + 1) / (n + 2)
    worse = (float((values < 0).mean()) * n + 1) / (n + 2)
    half = Z * sqrt((better + worse - (better - worse) ** 2) / (n + 2))
    return max(better - worse - half, -1.0), min(better - worse + half, 1.0)


def effective_size(values: np.ndarray, clusters: Sequence[Hashable]) -> float:
    """How many independent questions tell as much as these, which share videos; between 1 and n.

    values: (n,). rho, how alike the answers about a video are, is estimated from how much videos differ. Few videos,
    or values that are almost all the same, tell little about it. So one made-up piece of evidence for rho = 1 is
    always added; with a single video, or values that are all the same, there is no other.
    """
    total, numbers = len(values), {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    places = np.array([numbers[name] for name in clusters])
    sizes = np.bincount(places)
    shared = float((sizes**2).sum()) / total  # questions about the video of a question, on average
    if shared == 1:
        return total
    evidence = min(len(sizes) - 1, total - int(np.unique(values, return_counts=True)[1].max()))
    rho = 0.0
    if evidence:
        sums = np.bincount(places, weights=values - values.mean())
        inflation = len(sizes) / (len(sizes) - 1) * float((sums**2).sum()) / (total * float(values.var()))
        rho = min(max((inflation - 1) / (shared - 1), 0.0), 1.0)
    rho = (evidence * rho + 1) / (evidence + 1)
    return total / (1 + (shared - 1) * rho)


def group_intervals(
    interval: Callable[[Sequence[float], Sequence[Hashable]], Interval],
    values: Sequence[float],
    clusters: Sequence[Hashable],
    groups: Sequence[Sequence[int]],
) -> list[list[float]]:
    """[low, high] of all questions, then of each group; a group lists the places of its questions."""
    places = [range(len(values)), *groups]
    found = [interval([values[i] for i in part], [clusters[i] for i in part]) for part in places]
    return [[round(low, 6), round(high, 6)] for low, high in found]


def _checked(values: Sequence[float], clusters: Sequence[Hashable], allowed: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if not len(array) or len(array) != len(clusters):
        raise ValueError(f"{len(array)} values and {len(clusters)} clusters: must be as many, and not none")
    if wrong := sorted(set(array.tolist()) - set(allowed)):
        raise ValueError(f"the values hold {wrong[0]}, must be of {', '.join(map(str, allowed))}")
    return array


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
