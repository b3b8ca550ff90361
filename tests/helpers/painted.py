"""Clips that carry the number of every frame in their pixels: black and white blocks, one a bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

HEIGHT, WIDTH, BLOCK, BITS = 96, 160, 32, 12
"""Three rows of five blocks, the last three unused: turned or mirrored, a frame reads as another number."""


def paint(number: int) -> np.ndarray:
    """(HEIGHT, WIDTH, 3) uint8 frame showing number, < 2 ** 12."""
    frame = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    for bit in range(BITS):
        row, column = divmod(bit, WIDTH // BLOCK)
        frame[row * BLOCK :, column * BLOCK :][:BLOCK, :BLOCK] = 235 if number >> bit & 1 else 20
    return frame


def read_number(frame: np.ndarray) -> int:
    """The number painted on an upright frame of the original size."""
    assert frame.shape == (HEIGHT, WIDTH, 3), frame.shape
    blocks = frame.reshape(HEIGHT // BLOCK, BLOCK, WIDTH // BLOCK, BLOCK, 3)[:, 8:24, :, 8:24]
    bits = blocks.mean(axis=(1, 3, 4)).flatten()[:BITS] > 128
    return int((bits << np.arange(BITS)).sum())


def read_numbers(frames: Iterable[np.ndarray]) -> list[int]:
    return [read_number(frame) for frame in frames]


def encode(
    path: Path,
    num_frames: int = 60,
    codec: str = "libx264",
    fmt: str | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    rate: int = 10,
    milliseconds: Sequence[int] | None = None,
    title: str = "",
    turn: Callable[[np.ndarray], np.ndarray] = lambda frame: frame,
) -> Path:
    """Encode painted frames 0, 1, ... at `rate` a second, or each shown at the time given in milliseconds."""
    with av.open(str(path), "w", format=fmt, options=container_options or {}) as container:
        container.metadata["title"] = title
        stream = container.add_stream(codec, rate=rate, options={"threads": "1", **(options or {})})
        stream.height, stream.width = turn(paint(0)).shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        unit = Fraction(1, rate) if milliseconds is None else Fraction(1, 1000)
        stream.codec_context.time_base = unit
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(turn(paint(number))), format="rgb24")
            frame.pts, frame.time_base = number if milliseconds is None else milliseconds[number], unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def cut_without_decoding(source: Path, path: Path, start: float, key: float) -> Path:
    """Copy packets from the keyframe at `key` seconds on, in an edit list that shows them from `start` on."""
    with av.open(str(source)) as read, av.open(str(path), "w") as write:
        stream = read.streams.video[0]
        copy = write.add_stream_from_template(stream)
        for packet in read.demux(stream):
            if packet.dts is None or packet.pts * stream.time_base < key:
                continue
            packet.pts -= round(start / stream.time_base)
            packet.dts -= round(start / stream.time_base)
            packet.stream = copy
            write.mux(packet)
    return path


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Write the 2 x 2 part of an mp4's display matrix: x' = a x + c y, y' = b x + d y."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 4 + 20 + 8 + 8  # version and flags, times, reserved, layer to volume
    assert data[matrix : matrix + 4] == (1 << 16).to_bytes(4)
    for offset, value in ((0, a), (4, b), (12, c), (16, d)):
        data[matrix + offset : matrix + offset + 4] = (value << 16).to_bytes(4, signed=True)
    path.write_bytes(data)
    return path


def destroy_packets(path: Path, numbers: Iterable[int], skip: int = 0) -> Path:
    """Overwrite the payload of packets, numbered in the order of decoding, from byte `skip` on."""
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for number in numbers:
        position, size = packets[number]
        data[position + skip : position + size] = b"\xff" * (size - skip)
    path.write_bytes(data)
    return path


def garble_packets(path: Path, numbers: Iterable[int], seed: int = 0) -> Path:
    """Overwrite the middle half of packets, numbered in the order of decoding, by random bytes."""
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
    for number in numbers:
        position, size = packets[number]
        data[position + size // 4 : position + size // 4 + size // 2] = rng.bytes(size // 2)
    path.write_bytes(data)
    return path


def keep_bytes(source: Path, path: Path, share: float) -> Path:
    """The first part of a file, as a download that broke off leaves it."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path
