"""Which decoded frames can be trusted.

Of a damaged packet FFmpeg makes what it can and goes on; the frames predicted from it are as wrong, and carry no
mark. So nothing is trusted from a damaged frame on to the next sound keyframe, and not the B-frames before it either,
which are shown earlier and decoded later. A frame that no other is predicted from costs only itself.

What a decoder takes for a picture passes: most codecs carry no checksum. Decoders of H.264, MPEG-2 and MPEG-4 notice
nearly all damage, those of HEVC, VP8, VP9, AV1 and MJPEG a part of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from typing import Any

import av

from .containers import DECODE_THREADS

LONGEST_RUN = 16
"""B-frames between two others, as many as codecs allow."""


@dataclass(frozen=True)
class Failure:
    """A packet that did not decode, in place of its frame."""

    pts: int | None
    """When its frame would be shown."""


def decoded(container: Any, stream: Any, jumped: bool = False) -> Iterator[av.VideoFrame | Failure]:
    """Frames from where the container stands, and failures between them.

    jumped: it was put there by a seek, perhaps between keyframes, where decoders make grey frames up. Frames before
    the first one that the decoder, too, calls a keyframe are then left out.
    """
    packets = container.demux(stream)
    if jumped:
        packets = dropwhile(lambda packet: packet.size and not packet.is_keyframe, packets)
    landed = not jumped
    for frame in _decode(packets, stream.codec_context.codec):
        landed = landed or (not isinstance(frame, Failure) and frame.key_frame)
        if landed or isinstance(frame, Failure):
            yield frame


def _decode(packets: Iterator[Any], codec: av.Codec) -> Iterator[av.VideoFrame | Failure]:
    # threads that take a frame each tell what became of a packet once all others have got one
    threaded = codec.capabilities & av.codec.Capabilities.frame_threads
    sent = deque[int | None](maxlen=DECODE_THREADS if threaded else 1)
    begun = False
    while True:
        try:
            packet = next(packets)
            if packet.size and not begun:
                begun = True
                if not packet.is_keyframe:  # cut out of another video, whose keyframe is not there
                    yield Failure(None)
            sent.append(packet.pts)
            yield from packet.decode()
        except StopIteration:
            return
        except av.error.InvalidDataError:
            yield Failure(sent[0] if sent else None)


def judged(
    frames: Iterable[av.VideoFrame | Failure], leaves: Collection[int]
) -> Iterator[tuple[av.VideoFrame, bool]]:
    """(frame, whether it is sound), in the order they are shown.

    leaves: times of the frames that no other is predicted from.
    """
    run: list[av.VideoFrame] = []  # of B-frames, up to the frame that comes before them in the file
    broken, until = False, None  # until: a sound keyframe shown after this time mends it
    for frame in frames:
        if isinstance(frame, Failure):
            if frame.pts not in leaves:
                broken, until = True, frame.pts
            continue
        run.append(frame)
        broken |= frame.is_corrupt and frame.pts not in leaves
        if frame.pict_type == av.video.frame.PictureType.B and len(run) <= LONGEST_RUN:
            continue
        yield from ((shown, not (broken or shown.is_corrupt)) for shown in run[:-1])
        mends = until is None or (frame.pts is not None and frame.pts > until)
        if mends and frame.key_frame and not frame.is_corrupt:
            broken, until = False, None
        yield frame, not (broken or frame.is_corrupt)
        run = []
    yield from ((shown, not (broken or shown.is_corrupt)) for shown in run)


def leaves_of(order: Sequence[tuple[int, bool]]) -> frozenset[int]:
    """Times of the frames from which no other is predicted, as their order tells.

    order: (time, is keyframe) of each packet as they are decoded. A B-frame, that is one shown before an earlier
    packet's, is a leaf unless the next packet is shown before it: then that one is predicted from it.
    """
    leaves, latest = set(), None
    for place, (pts, is_key) in enumerate(order):
        latest = pts if is_key or latest is None else max(latest, pts)
        following = order[place + 1][0] if place + 1 < len(order) else latest
        if latest > pts and following > pts:
            leaves.add(pts)
    return frozenset(leaves)
