"""A video that is a folder of images, one a frame: 000000.jpg, 000001.jpg, ... or c01_0001.jpeg, c01_0002.jpeg ..."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np

from .decode import VideoError

FOLDER_FPS = 2.0
"""Images a second where nothing else is said: LLaVA-Video's own training takes LLaVA-Hound's folders so."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
FORMATS = "jpeg_pipe,png_pipe,webp_pipe"
"""What FFmpeg may take a file for, whatever its name says: no playlist, and no pattern of other files."""


class FrameFolder:
    """Lists the images of one folder, then decodes those asked for; attributes as in PyAVReader.

    They come in the order of their names, numbers in names by value: frame2 before frame10. Where all names are
    numbers these count the frames, and those that are missing are gaps. fps: images a second. Other files, and
    hidden ones, are passed over. Raises VideoError naming the folder when it holds no image, or the image that is a
    link to somewhere else.
    """

    promised = 0.0
    cut_short = False

    def __init__(self, folder: Path, fps: float) -> None:
        self.images = sorted(filter(_is_image, folder.iterdir()), key=_by_numbers)
        if not self.images:
            raise VideoError(f"{folder}: is a directory without images ({', '.join(SUFFIXES)})")
        for image in self.images:
            if image.is_symlink() and image.resolve().parent != folder.resolve():
                raise VideoError(f"{image}: is a link that leads out of its folder")
        places = _places([image.stem for image in self.images])
        self.times = places / fps
        self.duration = float((places[-1] + 1) / fps)

    def decode(self, numbers: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number, (H, W, 3) uint8 RGB) of each image asked for. Raises VideoError for one that is damaged."""
        for number in numbers:
            yield number, read_image(self.images[number])


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image as it is stored, without turning it as a camera's notes in it may say.

    Raises VideoError naming the file.
    """
    try:
        data = io.BytesIO(path.read_bytes())
        with av.open(data, options={"format_whitelist": FORMATS}) as container:
            stream = container.streams.video[0]
            stream.codec_context.options = {"err_detect": "explode"}  # else what is cut off comes out grey
            return next(container.decode(stream)).to_ndarray(format="rgb24")
    except (av.FFmpegError, OSError, IndexError, StopIteration) as error:
        raise VideoError(f"{path}: is no image that can be read, or is damaged or cut short") from error


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
