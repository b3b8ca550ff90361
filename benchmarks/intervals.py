"""How sure the results of several seeds on the same questions are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 4000
TAIL = 2.5
"""Percent cut off at either end: what is left are 95 % intervals."""


def mean_and_interval(values: np.ndarray, clips: Sequence[str], seed: int = 0) -> tuple[float, float, float]:
    """Mean of values (S, Q), one row a training seed and one column a question, and its 95 % interval.

    clips: (Q,), what each question is about. Seeds and clips are drawn with replacement, each clip with all of its
    questions (two-level bootstrap, percentiles). NaN, a question without the number asked for, does not count.
    With one seed the interval is over clips alone.
    """
    _, column = np.unique(np.asarray(clips), return_inverse=True)
    member = np.eye(column.max() + 1)[column]  # (Q, C)
    known = ~np.isnan(values)
    sums, counts = np.where(known, values, 0) @ member, known @ member  # (S, C)
    rng = np.random.default_rng(seed)
    seeds, clips_drawn = (_times(rng, size) for size in sums.shape)  # how often each is drawn
    total = np.einsum("rs,sc,rc->r", seeds, sums, clips_drawn)
    with np.errstate(invalid="ignore"):  # a draw without any known question does not count
        means = total / np.einsum("rs,sc,rc->r", seeds, counts, clips_drawn)
    low, high = np.percentile(means[~np.isnan(means)], [TAIL, 100 - TAIL])
    return float(sums.sum() / counts.sum()), float(low), float(high)


def _times(rng: np.random.Generator, size: int) -> np.ndarray:
    return rng.multinomial(size, np.full(size, 1 / size), RESAMPLES).astype(float)
