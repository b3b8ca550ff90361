"""The same frames through decord, for comparison with code that uses it.

It returns wrong frames, silently, of MPEG-TS, of clips with an edit list, of open groups of pictures and of
B-frames in AVI. Damage it does not report at all, or it costs the whole file, and of several video streams it takes
FFmpeg's choice. Prefer PyAV.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from .containers import DECODE_THREADS, VideoError, check_pixels, open_stream


class DecordReader:
    """Reads one file; attributes as in PyAVReader. decord turns frames upright itself."""

    promised = 0.0
    cut_short = False

    def __init__(self, path: Path) -> None:
        try:
            import decord
        except ImportError as error:
            text = "backend 'decord' needs the package decord: pip install decord, or use backend 'pyav'"
            raise ImportError(text) from error
        self.path = path
        with open_stream(path):  # decord itself opens playlists, and pictures of any size
            pass
        self.errors = (RuntimeError, IndexError, decord.base.DECORDError)
        try:
            self.reader = decord.VideoReader(str(path.absolute()), num_threads=DECODE_THREADS)
            spans = self.reader.get_frame_timestamp(np.arange(len(self.reader))).astype(np.float64)  # (n, 2)
        except self.errors as error:
            raise VideoError(f"{path}: decord cannot open it ({first_line(error)})") from error
        if not len(spans) or (np.diff(spans[:, 0]) <= 0).any():
            raise VideoError(f"{path}: decord does not know when its frames are shown, use backend 'pyav'")
        self.times = spans[:, 0] - spans[0, 0]
        self.duration = float(spans[-1, 1] - spans[0, 0])

    def decode(self, numbers: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number, (H, W, 3) uint8 RGB) of each frame asked for."""
        for number in numbers:
            try:
                image = self.reader[number].asnumpy()
            except self.errors as error:
                text = f"decord cannot decode frame {number} ({first_line(error)})"
                raise VideoError(f"{self.path}: {text}") from error
            check_pixels(self.path, image.shape[1], image.shape[0])
            yield number, image


def first_line(error: Exception) -> str:
    """What decord says, without the time of day and its stack trace."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[[0-9:.]+\] ", "", line)
