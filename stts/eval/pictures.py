"""Videos that come as a folder of numbered pictures, 00001.jpg, 00002.jpg, ..."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..data.decode import VideoError, open_stream, to_rgb
from ..data.pixels import resize_frames
from ..data.sampling import choose_frames
from ..data.video import Clip

SUFFIXES = (".jpg", ".jpeg", ".png")


def read_pictures(
    folder: Path,
    fps: float,
    frames: int,
    max_fps: float = 2.0,
    start: float | None = None,
    end: float | None = None,
    size: int | None = None,
    sampling: str = "time",
) -> Clip:
    """At most `frames` pictures of a folder, as read_video takes frames of a file.

    fps: pictures a second; the lowest number is shown at 0 s, and numbers that are missing are gaps. An `end` past
    the last one means the last one. Raises VideoError, naming folder or file, where there is none in the range, or
    one that cannot be decoded.
    """
    paths = {int(path.stem): path for path in folder.iterdir() if _is_numbered(path)}
    if not paths:
        raise VideoError(f"{folder}: has no pictures named by numbers, such as 00001.jpg")
    numbers = sorted(paths)
    times = (np.array(numbers) - numbers[0]) / fps
    duration = times[-1] + 1 / fps
    start = 0.0 if start is None else start
    end = duration if end is None else min(end, duration)
    if not 0 <= start < end:
        raise VideoError(f"{folder}: start is {start} s and end {end} s; the pictures last {duration:.3f} s")
    chosen = choose_frames(times, duration, frames, max_fps, start, end, sampling)
    images = [_read(paths[numbers[i]], size) for i in chosen]
    return Clip(np.stack(images), times[chosen])


def _is_numbered(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.stem.isdecimal()


def _read(path: Path, size: int | None) -> np.ndarray:
    with open_stream(path) as (container, stream):
        image = to_rgb(next(container.decode(stream)))
    return image if size is None else resize_frames(image[None], size)[0]
