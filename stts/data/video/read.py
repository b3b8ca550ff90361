"""`read_video`: a few frames out of a video, a file or a folder of images, with the time each is shown."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .config import FOLDER_FPS
from .containers import MAX_PIXELS, VideoError
from .decode import PyAVReader
from .decode_decord import DecordReader
from .encode import write_video
from .frame_folder import FrameFolder
from .pixels import resize_frames
from .sampling import choose_frames

__all__ = ["Clip", "VideoError", "read_video", "write_video"]

logger = logging.getLogger(__name__)

READERS = {"auto": PyAVReader, "pyav": PyAVReader, "decord": DecordReader}
FrameReader = PyAVReader | DecordReader | FrameFolder
SAMPLINGS = ("time", "transformers")

END_SLACK = 0.1
"""Seconds an `end` may lie past the clip without a word: annotations are rounded to tenths."""
MIN_DECODED = 0.5
"""Share of the chosen frames that must decode; with fewer the clip no longer shows what was asked for."""


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames of one video, in order, and when each is shown."""

    frames: np.ndarray
    """(T, H, W, 3) uint8 RGB, upright; (T, H, W, 0) where only their size is known (probe_video)."""
    timestamps: np.ndarray
    """(T,) float64 seconds from the first frame the video shows, increasing. Frames cut out by start and end
    keep the video's own clock; subtract `start` for times that begin at the cut."""

    def __post_init__(self) -> None:
        if not isinstance(self.frames, np.ndarray) or self.frames.dtype != np.uint8:
            kind = getattr(self.frames, "dtype", type(self.frames).__name__)
            raise ValueError(f"frames are {kind}, must be a uint8 array: levels from 0 to 255")
        if self.frames.ndim != 4 or self.frames.shape[3] not in (0, 3):
            raise ValueError(f"frames have shape {self.frames.shape}, must be (T, H, W, 3), RGB")
        times = np.asarray(self.timestamps)
        if times.shape != self.frames.shape[:1]:
            raise ValueError(
                f"timestamps have shape {times.shape}, must be one a frame: {self.frames.shape[:1]}"
            )
        if not np.isfinite(times).all() or (np.diff(times) < 0).any():
            raise ValueError(f"timestamps are {times}, must be seconds that never fall")


@dataclass(frozen=True)
class Request:
    """Which frames of a video are asked for, as in read_video. Raises ValueError naming a setting out of range."""

    frames: int
    max_fps: float = 2.0
    start: float | None = None
    end: float | None = None
    size: int | None = None
    backend: str = "auto"
    sampling: str = "time"
    folder_fps: float = FOLDER_FPS

    def __post_init__(self) -> None:
        if not is_whole(self.frames) or self.frames < 1:
            raise ValueError(f"frames is {self.frames!r}, must be a whole number, at least 1")
        for name, fps in (("max_fps", self.max_fps), ("folder_fps", self.folder_fps)):
            if not is_number(fps) or not (fps > 0 and math.isfinite(fps)):
                raise ValueError(f"{name} is {fps!r}, must be a positive number of frames a second")
        for name, second in (("start", self.start), ("end", self.end)):
            if second is not None and not is_number(second):
                raise ValueError(
                    f"{name} is {second!r}, must be a number of seconds, or None for that of the video"
                )
        if self.size is not None and (not is_whole(self.size) or not 1 <= self.size**2 <= MAX_PIXELS):
            most = math.isqrt(MAX_PIXELS)
            raise ValueError(
                f"size is {self.size!r}, must be 1 to {most} pixels, or None to keep frames as stored"
            )
        if self.backend not in READERS:
            raise ValueError(f"backend is {self.backend!r}, must be one of {', '.join(READERS)}")
        if self.sampling not in SAMPLINGS:
            raise ValueError(f"sampling is {self.sampling!r}, must be one of {', '.join(SAMPLINGS)}")


def read_video(
    path: str | os.PathLike[str],
    frames: int,
    max_fps: float = 2.0,
    start: float | None = None,
    end: float | None = None,
    size: int | None = None,
    backend: Literal["auto", "pyav", "decord"] = "auto",
    sampling: Literal["time", "transformers"] = "time",
    folder_fps: float = FOLDER_FPS,
    min_decoded: float = MIN_DECODED,
    on_frame: Callable[[], object] | None = None,
) -> Clip:
    """Take at most `frames` frames out of a video, none of them twice: a file, or a folder of images.

    start, end: seconds from the first shown frame; the range goes from the frame shown at `start` to the one
    shown at `end`, or to the last one where `end` lies past it, which the log then says. size: side in pixels of
    square frames; None keeps them as stored. backend: "auto" is "pyav", which is exact; "decord" is wrong on some
    files. sampling: "time" looks at instants, max_fps a second and the last one, or, where those are too many, at
    `frames` evenly spaced ones; "transformers" counts frames as transformers' Molmo2VideoProcessor does. folder_fps:
    images a second of a folder (FrameFolder). min_decoded: share of the chosen frames that must be sound. on_frame:
    called for every frame that is there, to tell how far it is.

    Frames that are damaged, or predicted from a damaged one, are left out, with a warning in the log ("decord" may
    return them). Raises VideoError, naming file and reason, when the file is missing, empty, encrypted, no video or
    cut short, when its frames have more than MAX_PIXELS, when the range begins outside it, when fewer than
    min_decoded of the frames are sound, and when an image of a folder is not. Raises ValueError for a setting out of
    range.
    """
    asked = Request(frames, max_fps, start, end, size, backend, sampling, folder_fps)
    path = Path(path)
    reader = open_reader(path, backend, folder_fps)
    numbers = choose_frames_of(path, reader, asked)
    pixels, found = collect(path, reader, numbers, size, on_frame)
    if not found.all():
        report_damage(path, int((~found).sum()), len(found), min_decoded)
        pixels, numbers = pixels[found], numbers[found]
    return Clip(pixels, reader.times[numbers])


def probe_video(path: str | os.PathLike[str], frames: int, **settings: Any) -> Clip:
    """What read_video returns, without the pixels: frames is (T, 0, 0, 3), or (T, H, W, 0) with size None, for which
    one frame is decoded. settings: as read_video's.

    So damage inside a file is not found. Raises as read_video does for everything else.
    """
    asked = Request(frames, **settings)
    reader = open_reader(Path(path), asked.backend, asked.folder_fps)
    numbers = choose_frames_of(Path(path), reader, asked)
    shape = (0, 0, 3) if asked.size is not None else (*shape_of(Path(path), reader, numbers), 0)
    return Clip(np.empty((len(numbers), *shape), dtype=np.uint8), reader.times[numbers])


def shape_of(path: Path, reader: FrameReader, numbers: np.ndarray) -> tuple[int, int]:
    """Height and width of the first of these frames that decodes. Raises VideoError when none does."""
    for _, image in reader.decode(numbers.tolist()):
        return image.shape[:2]
    raise VideoError(f"{path}: none of the {len(numbers)} chosen frames can be decoded, the file is damaged")


def open_reader(path: Path, backend: str, folder_fps: float = FOLDER_FPS) -> FrameReader:
    """What lists and decodes the frames of a file, or of a folder of images. Raises VideoError."""
    if path.is_dir():
        return FrameFolder(path, folder_fps)
    check_file(path)
    return READERS[backend](path)


def choose_frames_of(path: Path, reader: FrameReader, asked: Request) -> np.ndarray:
    """(T,) numbers of the frames to take. Raises VideoError for a range that is not there."""
    check_whole(path, reader, asked.end)
    start, stop = resolve_range(path, reader.duration, asked.start, asked.end)
    return choose_frames(
        reader.times, reader.duration, asked.frames, asked.max_fps, start, stop, asked.sampling
    )


def collect(
    path: Path,
    reader: FrameReader,
    numbers: np.ndarray,
    size: int | None,
    on_frame: Callable[[], object] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Decode and resize frame by frame, so that only the result is ever in memory.

    Returns pixels (T, H, W, 3) uint8 and found (T,) bool, True where the frame came.
    """
    rows = {number: row for row, number in enumerate(numbers.tolist())}
    found = np.zeros(len(rows), dtype=bool)
    pixels = np.empty((len(rows), 0, 0, 3), dtype=np.uint8)
    for number, image in reader.decode(numbers.tolist()):
        image = image if size is None else resize_frames(image[None], size)[0]
        if not found.any():
            pixels = np.empty((len(rows), *image.shape), dtype=np.uint8)
        if image.shape != pixels.shape[1:]:
            sizes = " to ".join(f"{s[1]} x {s[0]}" for s in (pixels.shape[1:], image.shape))
            raise VideoError(f"{path}: its frames change from {sizes} pixels; set size to make them equal")
        pixels[rows[number]] = image
        found[rows[number]] = True
        if on_frame is not None:
            on_frame()
    return pixels, found


def is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def check_file(path: Path) -> None:
    if not path.exists():
        raise VideoError(f"{path}: no such file")
    if not path.is_file():
        raise VideoError(f"{path}: is not a regular file, must be a video file")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: is empty (0 bytes)")


def check_whole(path: Path, reader: FrameReader, end: float | None) -> None:
    """Refuse to read past the point where a file breaks off; log a header that promises too much."""
    there, promised = reader.duration, reader.promised
    if reader.cut_short and (end is None or end > there):
        raise VideoError(
            f"{path}: is cut short, {there:.2f} of {promised:.2f} s are there; fetch it again, "
            f"or set end to at most {math.floor(there * 10) / 10} to read that part"
        )
    if not reader.cut_short and promised > 1.1 * there + 1:
        logger.warning("%s: its header promises %.2f s, its frames end at %.2f s", path, promised, there)


def resolve_range(path: Path, duration: float, start: float | None, end: float | None) -> tuple[float, float]:
    """(start, stop) in seconds, inside the clip; None stands for its ends, and so does an `end` that lies past it."""
    lasts = f"the clip lasts {duration:.3f} s"
    if start is not None and not 0 <= start < duration:
        raise VideoError(f"{path}: start is {start} s, must be at least 0 and before the end; {lasts}")
    start = 0.0 if start is None else float(start)
    if end is None:
        return start, duration
    if not start < end < math.inf:
        raise VideoError(f"{path}: end is {end} s, must be after start ({start} s) and finite; {lasts}")
    if end > duration + END_SLACK:
        logger.warning(
            "%s: end is %g s, past the end of the file; %s, and is read to there", path, end, lasts
        )
    return start, min(float(end), duration)


def report_damage(path: Path, num_missing: int, num_wanted: int, min_decoded: float) -> None:
    """Log how many frames never came; raise VideoError when they are too many."""
    text = f"{num_missing} of {num_wanted} chosen frames cannot be decoded, the file is damaged or cut short"
    if num_wanted - num_missing < min_decoded * num_wanted:
        raise VideoError(f"{path}: {text}")
    logger.warning("%s: %s; they are left out", path, text)
