"""Which windows were kept of a video, small enough to stand in a line of predictions: one bit a window."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np


def pack_mask(keep: np.ndarray) -> dict[str, Any]:
    """keep: (T, rows, cols) bool, T units of time, True = kept -> plain values, ready for JSON."""
    bits = base64.b64encode(np.packbits(keep).tobytes()).decode("ascii")
    return {"shape": list(keep.shape), "bits": bits}


def unpack_mask(mask: Mapping[str, Any]) -> np.ndarray:
    """What pack_mask was given. Raises ValueError where it does not hold what it says."""
    try:
        units, rows, cols = mask["shape"]
        windows = units * rows * cols
        data = np.frombuffer(base64.b64decode(mask["bits"], validate=True), np.uint8)
        if min(units, rows, cols) < 1 or len(data) != -(-windows // 8):
            raise ValueError(f"{len(data)} bytes are not those of {windows} windows")
        return np.unpackbits(data, count=windows).astype(bool).reshape(units, rows, cols)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"what was kept cannot be read from its prediction: {error}") from error


def by_frame(keep: np.ndarray, frames: int) -> np.ndarray:
    """The mask of each frame, also of models that take two frames as one.

    keep: (U, rows, cols), of U frames, or of U pairs of which the last may be a single frame. Returns (frames, rows,
    cols). Raises ValueError for any other number of frames.
    """
    each = -(-frames // len(keep))
    if each > 2 or -(-frames // each) != len(keep):
        raise ValueError(f"{frames} frames are shown now, what was kept was recorded of {len(keep)}")
    return keep[np.arange(frames) // each]
