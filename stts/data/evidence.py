"""Where an answer can be seen: recorded boxes in time and space -> windows of the sampled frames."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def evidence_windows(
    evidence: Sequence[dict], timestamps: Sequence[float], rows: int, cols: int
) -> np.ndarray:
    """Mark the windows that hold the evidence.

    evidence: [{"start", "end", "box": [x0, y0, x1, y1]}], seconds (start included, end not) and coordinates
    in a frame of side 1, origin at the top left; timestamps: (T,) seconds of the sampled frames; rows, cols:
    the windows of a frame. Returns (T, rows * cols) bool, row-major: True where a frame was sampled during an
    event and the window shares some area with the event's box. Without evidence, or with none sampled, all
    False. Raises ValueError for an interval or a box that is empty or out of range.
    """
    times = np.asarray(timestamps, dtype=float)
    marked = np.zeros((len(times), rows, cols), dtype=bool)
    for item in evidence:
        start, end, (x0, y0, x1, y1) = item["start"], item["end"], item["box"]
        if not (start < end and 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
            raise ValueError(
                f"evidence is {item}, must have start < end and a box [x0, y0, x1, y1] "
                "with 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1"
            )
        during = (times >= start) & (times < end)
        marked[during, _touched(y0, y1, rows), _touched(x0, x1, cols)] = True
    return marked.reshape(len(times), rows * cols)


def _touched(low: float, high: float, count: int) -> slice:
    """Of `count` equal parts of a line of length 1, those that low..high covers some of."""
    # Coordinates are rounded when they are written: 1e-4 of a part beyond its border is no overlap.
    first = math.floor(low * count + 1e-4)
    return slice(first, max(math.ceil(high * count - 1e-4), first + 1))
