"""Frames to an H.264 mp4, the same bytes for the same frames."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[np.ndarray],
    fps: float = 8.0,
    crf: int = 14,
    options: Mapping[str, str] | None = None,
) -> None:
    """Write frames as an H.264 mp4 (yuv420p), whole or not at all.

    frames: (H, W, 3) uint8 RGB each, of one even size. crf: x264's quality, 0 the best, 14 good to the eye,
    23 its default. options: more options of x264, as {"g": "16"} for a keyframe every 16 frames.
    Raises ValueError for no frames, or frames of another kind, or odd or changing sizes.
    """
    path = Path(path)
    if not (fps > 0 and math.isfinite(fps)):
        raise ValueError(f"fps is {fps}, must be a positive number of frames a second")
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError(f"there are no frames to write to {path}, must be at least 1")
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        encode(partial, chain([first], frames), first.shape, fps, {"crf": str(crf), **(options or {})})
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def encode(
    path: Path, frames: Iterable[np.ndarray], shape: tuple[int, ...], fps: float, options: dict[str, str]
) -> None:
    """Encode on one thread and without version stamps: x264's output depends on both."""
    check_shape(shape)
    with av.open(f"file:{path}", "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        rate = Fraction(fps).limit_denominator(1001)  # 1001: the NTSC rates
        stream = container.add_stream("libx264", rate=rate, options={"flags": "+bitexact", **options})
        stream.height, stream.width, stream.pix_fmt = *shape[:2], "yuv420p"
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(frames):
            if frame.dtype != np.uint8 or frame.shape != shape:
                raise ValueError(f"frame {number} is {frame.dtype} {frame.shape}, must be uint8 {shape}")
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts = number
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) != 3 or shape[2] != 3:
        raise ValueError(f"frames have shape {shape}, must be (H, W, 3)")
    if shape[0] % 2 or shape[1] % 2:
        raise ValueError(f"frames are {shape[1]} x {shape[0]} pixels, H.264 needs even width and height")
