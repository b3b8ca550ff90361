"""Exact frames out of video files with PyAV.

Headers lie about the number of frames, and seeking lands beside the frame asked for. So every packet is
listed once, without decoding: the timestamps of those that are shown are the file's frames. A decoded frame
is taken only when its timestamp is exactly the one wanted; what seeking misses is found by reading from the
start.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from .containers import VideoError, check_pixels, open_stream
from .damage import Failure, decoded, judged, leaves_of

__all__ = ["FrameTable", "PyAVReader", "VideoError"]

SEEKABLE = {"mov", "matroska", "avi", "flv", "asf", "mpegts"}
"""Containers that store a time with each frame. In others FFmpeg infers times from the frames before, and
after a jump it infers wrong ones: those are read in order."""


@dataclass(frozen=True)
class FrameTable:
    """The frames one file shows."""

    pts: tuple[int, ...]
    """When each is shown, in units of the stream, increasing."""
    keyframes: tuple[int, ...]
    """Those of pts to which reading can jump."""
    length: int
    """How long the last frame lasts."""
    by_number: bool
    """True when packets do not tell which frame is which: frames are then counted as they come out."""
    leaves: frozenset[int] = frozenset()
    """Those of pts whose frames no other is predicted from; none where packets do not tell."""


class PyAVReader:
    """Lists the frames of one file, then decodes those asked for.

    .times: (n,) float64 seconds each frame starts at, from the first shown frame, increasing
    .duration: seconds the last frame ends at
    .promised: seconds the header says, 0 when it says nothing
    .cut_short: True when the file ends before a frame its index points at
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_stream(path) as (container, stream):
            self.table = list_frames(container, stream)
            self.promised = (container.duration or 0) / av.time_base
            self.cut_short = ends_before_last_packet(path, container, stream)
            unit = float(to_fraction(stream.time_base))
        if not self.table.pts:
            raise VideoError(f"{path}: its video stream holds no frame")
        pts = np.array(self.table.pts, dtype=np.float64)
        self.times = (pts - pts[0]) * unit
        self.duration = float((pts[-1] - pts[0] + self.table.length) * unit)

    def decode(self, numbers: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number, (H, W, 3) uint8 upright RGB) of each frame asked for, in any order.

        Frames that are damaged, or predicted from one that is, do not come.
        """
        if self.table.by_number:
            yield from self._find({number: number for number in numbers}, find_by_number)
            return
        missing = {self.table.pts[number]: number for number in numbers}
        yield from self._find(missing, find_by_seeking)
        yield from self._find(missing, find_in_order)  # a seek can land past its target, as in MPEG-TS

    def _find(self, missing: dict[int, int], find: Any) -> Iterator[tuple[int, np.ndarray]]:
        """Yield what `find` finds of missing (its key of a frame: frame number), taking it out of there."""
        if not missing:
            return
        with open_stream(self.path) as (container, stream):
            for key, frame in find(container, stream, sorted(missing), self.table):
                number = missing.pop(key)
                if frame is not None:
                    check_pixels(self.path, frame.width, frame.height)
                    yield number, to_rgb(frame)


def list_frames(container: Any, stream: Any) -> FrameTable:
    """Demux the whole stream, decoding nothing."""
    packets = list(shown_packets(container, stream))
    if any(encrypted for *_, encrypted in packets):
        raise VideoError(f"{container.name.removeprefix('file:')}: is encrypted; decrypt it first")
    known = {pts: length for pts, length, *_ in packets if pts is not None}
    if len(known) * 2 <= len(packets):  # a bare stream without times: lay the frames end to end
        rate = to_fraction(stream.average_rate) or Fraction(25)
        usual = max(round(1 / rate / to_fraction(stream.time_base)), 1)
        lengths = [length or usual for _, length, *_ in packets]
        starts = np.cumsum([0, *lengths[:-1]]).tolist()
        return FrameTable(tuple(starts[: len(packets)]), (), lengths[-1] if lengths else 0, by_number=True)
    pts = tuple(sorted(known))
    keyframes = {pts for pts, _, is_key, _ in packets if is_key and pts is not None}
    formats = set(container.format.name.split(","))  # mp4 is "mov,mp4,m4a,..."
    # AVI stores no times of presentation: when a codec reorders frames and the packets' times show nothing of
    # it, they are times of decoding
    reorders = "avi" in formats and stream.codec_context.has_b_frames
    mean_length = (pts[-1] - pts[0]) // max(len(pts) - 1, 1)
    by_number = bool(reorders and list(known) == sorted(known))
    order = [(pts, is_key) for pts, _, is_key, _ in packets if pts is not None]
    return FrameTable(
        pts=pts,
        keyframes=tuple(sorted(keyframes)) if formats & SEEKABLE else (),
        length=known[pts[-1]] or mean_length,
        by_number=by_number,
        leaves=leaves_of(order) if not by_number else frozenset(),
    )


def shown_packets(container: Any, stream: Any) -> Iterator[tuple[int | None, int, bool, bool]]:
    """(pts, length, is keyframe, is encrypted) of each packet whose frame is shown, in the order of decoding."""
    try:
        for packet in container.demux(stream):
            if packet.size and not packet.is_discard:
                encrypted = packet.has_sidedata("encryption_info")
                yield packet.pts, packet.duration or 0, packet.is_keyframe, encrypted
    except av.error.InvalidDataError:
        return  # the rest cannot be read; what came before it still counts


def find_by_seeking(
    container: Any, stream: Any, targets: list[int], table: FrameTable
) -> Iterator[tuple[int, av.VideoFrame | None]]:
    """(pts, frame) for the pts in targets (sorted), jumping to a keyframe where that saves decoding.

    None instead of a frame that came and is damaged.
    """
    frames = judged(decoded(container, stream), table.leaves)
    frame, sound = None, False
    position = table.keyframes[0] if table.keyframes else table.pts[0]  # where reading begins without a seek
    for target in targets:
        earlier = bisect_right(table.keyframes, target)
        if earlier and table.keyframes[earlier - 1] > position:
            position = table.keyframes[earlier - 1]
            if seek(container, stream, position):
                frames = judged(decoded(container, stream, jumped=True), table.leaves)
                frame = None
        while frame is None or frame.pts is None or frame.pts < target:
            frame, sound = next(frames, (None, False))
            if frame is None:
                break
        if frame is not None:
            position = max(position, frame.pts)
            if frame.pts == target:
                yield target, frame if sound else None


def find_in_order(
    container: Any, stream: Any, targets: list[int], table: FrameTable
) -> Iterator[tuple[int, av.VideoFrame | None]]:
    """(pts, frame) for the pts in targets, reading all that comes before the last of them."""
    missing = set(targets)
    for frame, sound in judged(decoded(container, stream), table.leaves):
        if frame.pts in missing:
            missing.remove(frame.pts)
            yield frame.pts, frame if sound else None
        if not missing:
            return


def find_by_number(
    container: Any, stream: Any, targets: list[int], table: FrameTable
) -> Iterator[tuple[int, av.VideoFrame | None]]:
    """(number, frame) for the frame numbers in targets (sorted), counting frames as they come out."""
    missing = set(targets)
    frames = up_to_failure(decoded(container, stream))
    for number, (frame, sound) in enumerate(judged(frames, table.leaves)):
        if number in missing:
            yield number, frame if sound else None
        if number == targets[-1]:
            return


def up_to_failure(frames: Iterable[av.VideoFrame | Failure]) -> Iterator[av.VideoFrame]:
    """The frames before the first that did not decode: after it nobody knows the numbers of the others. A recording
    that begins between keyframes fails at first, and that is no damage."""
    begun = False
    for frame in frames:
        if not isinstance(frame, Failure):
            begun = True
            yield frame
        elif begun:
            return


def seek(container: Any, stream: Any, pts: int) -> bool:
    """Go to the keyframe at pts or before; False where the container cannot, and reading simply goes on."""
    try:
        container.seek(pts, stream=stream)
    except av.FFmpegError:
        return False
    return True


def ends_before_last_packet(path: Path, container: Any, stream: Any) -> bool:
    """Whether an mp4 or mov points at a frame beyond the end of the file, as when a download broke off."""
    num_entries = len(stream.index_entries)
    if "mov" not in container.format.name or not num_entries:
        return False
    last = stream.index_entries[num_entries - 1]
    return last.pos + last.size > path.stat().st_size


def to_fraction(value: Any) -> Fraction:
    """A rational of PyAV, whose type depends on its release, as a Fraction; 0 when unset."""
    return Fraction(value.numerator, value.denominator) if value else Fraction(0)


def to_rgb(frame: av.VideoFrame) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned and mirrored as the file's display matrix says."""
    image = frame.to_ndarray(format="rgb24", threads=1)
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    # x' = a x + c y and y' = b x + d y, so a quarter turn has its weight in b and c
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32)[:5].tolist()
    if abs(b) > abs(a):
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
