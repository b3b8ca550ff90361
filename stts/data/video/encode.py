"""Frames to an H.264 mp4, the same bytes for the same frames on every processor, however busy it is.

x264's AVX-512 code now and then gives other bytes while processes compete, FFmpeg's conversion of colours is written
anew for each kind of processor, and a constant rate factor rests on floating point. So x264 runs without assembly and
at a constant quantizer, and colours are converted here, in whole numbers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np

from ...files.durable import whole_file

VERSION = 1
"""Raise it when the same frames would give other bytes: what was made with the encoding is then made anew."""
PORTABLE = "asm=0:scenecut=0:weightp=0"
"""x264 in C alone, without the two searches that calculate in floating point at a constant quantizer."""


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[np.ndarray],
    fps: float = 8.0,
    qp: int = 16,
    options: Mapping[str, str] | None = None,
) -> None:
    """Write frames as an H.264 mp4 (yuv420p), whole or not at all.

    frames: (H, W, 3) uint8 RGB each, of one even size. qp: x264's quantizer, 0 without loss, 16 good to the eye, 51
    the worst. options: more options of x264, as {"g": "16"} for a keyframe every 16 frames.
    Raises ValueError for a qp out of range, no frames, or frames of another kind, or odd or changing sizes.
    """
    path = Path(path)
    if not (fps > 0 and math.isfinite(fps)):
        raise ValueError(f"fps is {fps}, must be a positive number of frames a second")
    if qp not in range(52):
        raise ValueError(f"qp is {qp}, must be a whole number from 0 to 51")
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError(f"there are no frames to write to {path}, must be at least 1")
    with whole_file(path) as partial:
        encode(partial, chain([first], frames), first.shape, fps, {"qp": str(qp), **(options or {})})


def encode(
    path: Path, frames: Iterable[np.ndarray], shape: tuple[int, ...], fps: float, options: dict[str, str]
) -> None:
    """Encode on one thread and without version stamps: x264's output depends on both."""
    check_shape(shape)
    with av.open(f"file:{path}", "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        rate = Fraction(fps).limit_denominator(1001)  # 1001: the NTSC rates
        stream = container.add_stream("libx264", rate=rate)
        portable = ":".join(filter(None, (options.get("x264-params"), PORTABLE)))
        stream.options = {"flags": "+bitexact", **options, "x264-params": portable}
        stream.height, stream.width, stream.pix_fmt = *shape[:2], "yuv420p"
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(frames):
            if frame.dtype != np.uint8 or frame.shape != shape:
                raise ValueError(f"frame {number} is {frame.dtype} {frame.shape}, must be uint8 {shape}")
            picture = av.VideoFrame.from_ndarray(to_yuv420(frame), format="yuv420p")
            picture.pts = number
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def to_yuv420(frame: np.ndarray) -> np.ndarray:
    """RGB to BT.601 of limited range: (H, W, 3) uint8 -> (3 H / 2, W) uint8, Y, then U and V at half the size."""
    red, green, blue = np.moveaxis(frame.astype(np.int32), 2, 0)
    height, width = red.shape
    luma = (66 * red + 129 * green + 25 * blue + 128 >> 8) + 16
    # sums over 2 x 2 pixels, hence 10 bits where luma has 8
    red, green, blue = (x.reshape(height // 2, 2, width // 2, 2).sum((1, 3)) for x in (red, green, blue))
    first = (-38 * red - 74 * green + 112 * blue + 512 >> 10) + 128
    second = (112 * red - 94 * green - 18 * blue + 512 >> 10) + 128
    planes = np.concatenate([luma.ravel(), first.ravel(), second.ravel()])
    return planes.astype(np.uint8).reshape(-1, width)


def check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) != 3 or shape[2] != 3:
        raise ValueError(f"frames have shape {shape}, must be (H, W, 3)")
    if shape[0] % 2 or shape[1] % 2:
        raise ValueError(f"frames are {shape[1]} x {shape[0]} pixels, H.264 needs even width and height")
