"""Which frames of a video to take: numbers in, frame numbers out, no file in sight.

"time" is the rule Molmo2 was trained with, "transformers" the one its processor in transformers applies.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

TOLERANCE = 1e-4
"""Seconds a frame may start late and still count as shown at an instant: far less than any frame lasts, more
than containers and float32 clocks round off."""
MOST_INSTANTS = 2**40
"""Closer together than the tolerance in any video there is."""


def sample_times(duration: float, frames: int, max_fps: float) -> np.ndarray:
    """Instants to look at: max_fps a second from 0, then the last instant; at most `frames` of them.

    Where those are too many, `frames` equally spaced instants, both ends included. duration: seconds, >= 0.
    Returns (n,) float64 seconds from 0 to duration, just 0 when `frames` is 1.
    """
    count, instant = instants(duration, frames, max_fps)
    return instant(np.arange(count))


def instants(duration: float, frames: int, max_fps: float) -> tuple[int, Callable[[np.ndarray], np.ndarray]]:
    """How many instants sample_times has, and a function from their numbers (int64, from 0) to seconds."""
    frames = min(frames, MOST_INSTANTS)
    steps = duration * max_fps - 1e-6  # before the last instant; 6.0000001 steps are 6
    if steps <= frames - 1:
        steady = max(math.ceil(steps), 1)
        if steady + 1 <= frames:
            return steady + 1, lambda k: np.where(k < steady, k / max_fps, duration)
    step = duration / max(frames - 1, 1)
    return frames, lambda k: np.where(k < max(frames - 1, 1), k * step, duration)


def frames_at(times: np.ndarray, instants: np.ndarray) -> np.ndarray:
    """The frame shown at each instant, no frame twice.

    times: (n,) seconds each frame starts at, increasing; instants: (m,) seconds, none before times[0].
    Returns (k,) int64 frame numbers, increasing, k <= m.
    """
    started = np.searchsorted(times, instants + TOLERANCE, side="right")
    return np.unique(started.clip(min=1) - 1)


def frames_at_any(times: np.ndarray, count: int, instant: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """frames_at(times, instant(np.arange(count))), in memory for the frames alone, however many instants there are.

    instant: from numbers (int64, any shape) to seconds, increasing.
    """
    if count <= len(times):
        return frames_at(times, instant(np.arange(count)))
    # the first instant at which each frame has begun, by bisection of all frames at once
    low, high = np.zeros(len(times), dtype=np.int64), np.full(len(times), count)
    while (low < high).any():
        middle = (low + high) // 2
        begun = instant(middle) + TOLERANCE >= times
        low, high = np.where(begun, low, np.minimum(middle + 1, high)), np.where(begun, middle, high)
    ends = np.append(times[1:], np.inf)
    shown = (low < count) & (instant(np.minimum(low, count - 1)) + TOLERANCE < ends)
    return np.flatnonzero(shown)


def sample_like_transformers(total: int, fps: float, frames: int, max_fps: float) -> np.ndarray:
    """The frames transformers' Molmo2VideoProcessor takes: from the first on, each total / count further.

    total: frames there are; fps: their mean rate. Returns (count,) int64 frame numbers, count <= frames.
    """
    count = frames if fps <= max_fps else int(min(frames, total / fps * max_fps))
    count = max(min(count, total), 1)
    # torch.arange as there, since its float32 decides some numbers; the one too many it may add is cut off
    return torch.arange(0, total, total / count).int().numpy().astype(np.int64)[:count]


def choose_frames(
    times: np.ndarray, duration: float, frames: int, max_fps: float, start: float, stop: float, sampling: str
) -> np.ndarray:
    """Numbers of at most `frames` frames, from the one shown at `start` to the one shown at `stop`.

    times: (n,) seconds each frame starts at; duration: seconds the last one ends at; sampling: which rule.
    """
    if sampling == "time":
        count, instant = instants(stop - start, frames, max_fps)
        return frames_at_any(times, count, lambda k: start + instant(k))
    first, last = (int(frames_at(times, np.array([instant]))[0]) for instant in (start, stop))
    fps = len(times) / duration if duration > 0 else max_fps
    return first + sample_like_transformers(last - first + 1, fps, frames, max_fps)
