"""Opening video files: which are read at all, which of their streams, and how large its pictures may be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av

DECODE_THREADS = 2
"""Threads of one decoder; few, because data loaders run many side by side."""
FORMATS = (
    "mov,matroska,webm,avi,flv,live_flv,asf,asf_o,mpegts,mpeg,mpegvideo,m4v,h261,h263,h264,hevc,vvc,evc,vc1,vc1test,"
    "av1,obu,ivf,dirac,avs2,avs3,cavsvideo,mjpeg,ogg,nut,mxf,gxf,gif,apng,swf,wtv,dv,rm,nsv,lmlm4,yuv4mpegpipe"
)
"""The containers that are read, by FFmpeg's names. Each keeps its pictures in the file itself; playlists, scripts and
image patterns, which name other files to read, have no place here."""
MAX_PIXELS = 8192 * 4320
"""Of a frame or an image, 8K of the cinema. A larger one would take more than a gigabyte in every worker."""
STRICT = {"hevc": {"err_detect": "explode"}}
"""Options of decoders that otherwise return what they could not decode without a word."""
TITLES = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
"""Titles in some old encoding must not make a file unreadable; PyAV 19 sees to it unasked."""


class VideoError(ValueError):
    """A video file that cannot be read as asked; the text names the file and the reason."""


@contextmanager
def open_stream(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container at path and the video stream to read of it; what FFmpeg cannot read becomes a VideoError."""
    try:
        with _open(path) as container:
            stream = best_stream(path, container)
            codec = stream.codec_context
            check_pixels(path, codec.width, codec.height)
            stream.thread_type = "AUTO"
            codec.thread_count = DECODE_THREADS
            # for streams that grow midway; twice, since decoders count the margins of their buffers too
            codec.options = {"max_pixels": str(2 * MAX_PIXELS), **STRICT.get(codec.name, {})}
            yield container, stream
    except (av.error.InvalidDataError, av.error.EOFError) as error:
        raise VideoError(f"{path}: is not a video, or is damaged or cut short ({error.strerror})") from error
    except av.error.BlockingIOError as error:  # FFmpeg's word for a stream of which nothing came
        raise VideoError(f"{path}: is damaged or cut short, no frame of it can be decoded") from error
    except av.FFmpegError as error:
        raise VideoError(f"{path}: cannot be decoded ({error.strerror})") from error


def _open(path: Path) -> Any:
    # "file:" so that a colon in the name is no protocol; the whitelists so that nothing but this file is read
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
    try:
        return av.open(f"file:{path}", options=options, **TITLES)
    except av.error.ArgumentError as error:
        text = "is no video file; playlists, image patterns, single images, text and sound are not read"
        raise VideoError(f"{path}: {text}") from error


def best_stream(path: Path, container: Any) -> Any:
    """The video stream that players show: the default one, the largest where several or none are. No cover art."""
    flags = av.stream.Disposition
    streams = [s for s in container.streams.video if not s.disposition & flags.attached_pic]
    if not streams:
        raise VideoError(f"{path}: holds no video stream")
    readable = [s for s in streams if s.codec_context is not None]
    if not readable:
        raise VideoError(f"{path}: there is no decoder for its video stream")

    def rank(stream: Any) -> tuple[bool, int]:
        return bool(
            stream.disposition & flags.default
        ), stream.codec_context.width * stream.codec_context.height

    return max(readable, key=rank)  # the first of equals


def check_pixels(path: Path, width: int, height: int) -> None:
    """Raise VideoError for a picture of more than MAX_PIXELS."""
    if width * height > MAX_PIXELS:
        raise VideoError(f"{path}: is {width} x {height} pixels, more than the {MAX_PIXELS:,} that are read")
