"""A video that is a folder of images, one a frame: 000000.jpg, 000001.jpg, ... or c01_0001.jpeg, c01_0002.jpeg ..."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np

from .config import FOLDER_FPS
from .containers import MAX_PIXELS, VideoError

logger = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
DECODERS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "mjpeg", b"RIFF": "webp"}
"""How a file of each kind begins, and FFmpeg's decoder: the bytes decide, whatever the name says, and go to a decoder
of pictures alone, so that no file can make it read another one."""
OPTIONS = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
"""Else what is cut off comes out grey, and a picture of any size is decoded."""


class FrameFolder:
    """Lists the images of one folder, then decodes those asked for; attributes as in PyAVReader.

    They come in the order of their names, numbers in names by value: frame2 before frame10. Where all names are
    numbers these count the frames, and those that are missing are gaps; the log says so where most are missing, as
    when the names are times. fps: images a second. Other files, and hidden ones, are passed over. Raises VideoError
    naming the folder when it holds no image, or the image that is a link to somewhere else.
    """

    promised = 0.0
    cut_short = False

    def __init__(self, folder: Path, fps: float = FOLDER_FPS) -> None:
        self.images = sorted(filter(_is_image, folder.iterdir()), key=_by_numbers)
        if not self.images:
            raise VideoError(f"{folder}: is a directory without images ({', '.join(SUFFIXES)})")
        for image in self.images:
            if image.is_symlink() and image.resolve().parent != folder.resolve():
                raise VideoError(f"{image}: is a link that leads out of its folder")
        places = _places([image.stem for image in self.images])
        self.times = places / fps
        self.duration = float((places[-1] + 1) / fps)
        if self.duration * fps > 2 * len(places):
            logger.warning(
                "%s: most numbers are missing in the names of its images. They are taken for numbers of frames, so "
                "that %d images last %g s at %g a second; if they are times, name the images 0, 1, 2, ...",
                folder, len(places), self.duration, fps,
            )  # fmt: skip

    def decode(self, numbers: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number, (H, W, 3) uint8 RGB) of each image asked for. Raises VideoError for one that is damaged."""
        for number in numbers:
            yield number, read_image(self.images[number])


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image as it is stored, without turning it as a camera's notes in it may say.

    Raises VideoError naming the file.
    """
    try:
        data = path.read_bytes()
        decoder = next((name for magic, name in DECODERS.items() if data.startswith(magic)), None)
        if decoder is None:
            raise ValueError("begins like none of these")
        codec = av.CodecContext.create(decoder, "r")
        codec.options = OPTIONS
        (frame, *_) = [*codec.decode(av.Packet(data)), *codec.decode(None)]
        return frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, OSError, ValueError) as error:
        kinds = f"JPEG, PNG or WebP of up to {MAX_PIXELS:,} pixels"
        raise VideoError(
            f"{path}: is no image that can be read ({kinds}), or is damaged or cut short"
        ) from error


def _is_image(path: Path) -> bool:
    named = path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    return named and (path.is_file() or path.is_symlink())


def _by_numbers(path: Path) -> list[tuple[int, str]]:
    """A key by which names sort as people count."""
    parts = re.split(r"([0-9]+)", path.name)
    return [(int(part), "") if i % 2 else (0, part) for i, part in enumerate(parts)]


def _places(stems: list[str]) -> np.ndarray:
    """(n,) int64, increasing from 0: which frame each image is."""
    if all(re.fullmatch("[0-9]+", stem) for stem in stems):
        numbers = np.array([int(stem) for stem in stems])
        if (np.diff(numbers) > 0).all():
            return numbers - numbers[0]
    return np.arange(len(stems))
