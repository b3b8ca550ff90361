"""What a clip handed to a processor must be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..video.read import Clip

READ_IT = 'read it first, clip = stts.data.read_video("clip.mp4", frames=32)'


def check_clip(clip: Clip) -> None:
    """Raises ValueError, saying what is wrong, unless this is one clip of colour frames at rising times."""
    if not (hasattr(clip, "frames") and hasattr(clip, "timestamps")):
        hint = "one conversation is about one clip" if isinstance(clip, list | tuple) else READ_IT
        raise ValueError(
            f"clip is a {type(clip).__name__} ({_short(clip)}), must be an stts.data.Clip: {hint}"
        )
    frames, times = clip.frames, clip.timestamps
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
        kind = getattr(frames, "dtype", type(frames).__name__)
        raise ValueError(
            f"clip.frames is of {kind}, must be a numpy array of uint8, 0 to 255 (of floats in [0, 1] take 255 times)"
        )
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise ValueError(
            f"clip.frames has the shape {frames.shape}, must be (T, H, W, 3), none of them 0: RGB, grey frames three "
            "times over"
        )
    check_times(times)
    if len(times) != len(frames):
        raise ValueError(f"a clip has {len(frames)} frames and {len(times)} timestamps, must have one each")


def check_times(times: Sequence[float]) -> None:
    """Raises ValueError unless these are seconds that never fall, of one frame at least."""
    try:
        seconds = np.asarray(times, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"timestamps are {_short(times)}, must be seconds, a number a frame") from error
    if seconds.ndim != 1 or not len(seconds):
        raise ValueError(f"timestamps have the shape {seconds.shape}, must be (T,), of one frame at least")
    wrong = np.flatnonzero(~np.isfinite(seconds) | (np.diff(seconds, prepend=seconds[:1]) < 0))
    if len(wrong):
        raise ValueError(
            f"timestamps[{wrong[0]}] is {seconds[wrong[0]]}, must be a finite number of seconds and not before the "
            "frame in front of it"
        )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
