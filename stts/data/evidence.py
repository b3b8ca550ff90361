"""Where an answer can be seen: recorded boxes in time and space -> windows of the sampled frames."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def evidence_windows(
    evidence: Sequence[dict], timestamps: Sequence[float], rows: int, cols: int
) -> np.ndarray:
    """Mark the windows that hold the evidence: (T, rows * cols) bool, arguments as of evidence_items."""
    return evidence_items(evidence, timestamps, rows, cols).any(0)


def evidence_items(evidence: Sequence[dict], timestamps: Sequence[float], rows: int, cols: int) -> np.ndarray:
    """Mark the windows that hold each piece of evidence.

    evidence: [{"start", "end", "box": [x0, y0, x1, y1]}], seconds (start included, end not) and coordinates
    in a frame of side 1, origin at the top left; timestamps: (T,) seconds of the sampled frames; rows, cols:
    the windows of a frame. Returns (E, T, rows * cols) bool, windows row-major: True where a frame was sampled during
    an event and the window shares some area with the event's box; all False for an item that no frame was sampled of.
    Raises ValueError for an interval or a box that is empty or out of range.
    """
    times = np.asarray(timestamps, dtype=float)
    marked = np.zeros((len(evidence), len(times), rows, cols), dtype=bool)
    for item, mine in zip(evidence, marked, strict=True):
        start, end, (x0, y0, x1, y1) = item["start"], item["end"], item["box"]
        if not (start < end and 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
            raise ValueError(
                f"evidence is {item}, must have start < end and a box [x0, y0, x1, y1] "
                "with 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1"
            )
        during = (times >= start) & (times < end)
        mine[during, _touched(y0, y1, rows), _touched(x0, x1, cols)] = True
    return marked.reshape(len(evidence), len(times), rows * cols)


def evidence_recall(items: np.ndarray, keep: np.ndarray) -> float | None:
    """Share of the evidence that survives pruning; None when no frame shows any.

    items: (E, T, W) bool, as evidence_items marks them; keep: (T, W) bool. A window whose evidence lasts for several
    frames counts once, and survives with any of them.
    """
    shown = items.any(1).sum()
    return float((items & keep).any(1).sum() / shown) if shown else None


def evidence_scores(items: np.ndarray) -> np.ndarray:
    """What an oracle ranks windows by (policy "given"): items (E, T, W) bool -> (T, W) float32, 0 without evidence.

    Evidence that lasts for several frames is worth less in each of them, so that brief evidence goes first.
    """
    frames = items.any(2).sum(1)[:, None, None].clip(1)  # (E, 1, 1)
    return (items / frames).max(0, initial=0).astype(np.float32)


def _touched(low: float, high: float, count: int) -> slice:
    """Of `count` equal parts of a line of length 1, those that low..high covers some of."""
    # Coordinates are rounded when they are written: 1e-4 of a part beyond its border is no overlap.
    first = math.floor(low * count + 1e-4)
    return slice(first, max(math.ceil(high * count - 1e-4), first + 1))
