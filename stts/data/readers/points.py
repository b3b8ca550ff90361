"""Pointing as text: a row of Molmo2-VideoPoint -> the question and the answer that Molmo2 is trained on.

A row has question ("How many ..."), label (what is pointed at), two_fps_timestamps (when, in seconds of the video,
each a multiple of a half), points (of each of these times a list of {x, y} in percent of the frame), video_duration,
clip_start, clip_end and annotator_unsure. Answers are in the form that Ai2's code calls html-v2: a frame after the
other, its time and then, of each point, its number and its place in thousandths of width and height.

    Counting the <points coords="0.5 1 105 205 2 300 400;2.0 3 110 210">cups</points> shows a total of 3.

Times count from the first frame that is shown, as those that stand before the frames in a prompt. Which rows are used
and what is shown of a video are as in Molmo2's training, too: about a minute at two frames a second, so that every
frame that is pointed at is there (frames=128).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from .base import Entry, Unused

COLUMNS = {"question", "label", "two_fps_timestamps", "points", "video_duration", "clip_start", "clip_end"}
MAX_SECONDS = 63.0
"""That are shown: a video of so many whole, of a longer one the row's clip."""
MAX_POINTS = 60
STEP = 0.5
"""Seconds between two frames of the videos that were annotated."""
ROUNDED = 1e-6
"""Seconds by which a clip may seem too long, its ends being rounded."""

Point = tuple[float, float]


def is_pointing(row: Mapping[str, Any]) -> bool:
    """Whether a row is one of Molmo2-VideoPoint, by its columns."""
    return row.keys() >= COLUMNS


def pointing(where: str, row: Mapping[str, Any]) -> Entry | Unused:
    """What is asked and answered of a row. Raises ValueError for one that does not hold what it must."""
    label, times, points = row["label"], row["two_fps_timestamps"], row["points"]
    if not isinstance(label, str) or not label.strip():
        raise ValueError(f"label is {label!r}, must be text")
    if len(times) != len(points):
        raise ValueError(
            f"it has {len(times)} two_fps_timestamps and {len(points)} points, must have as many"
        )
    whole = row["video_duration"] <= MAX_SECONDS
    start, end = (0.0, row["video_duration"]) if whole else (row["clip_start"], row["clip_end"])
    if reason := _unused(row, start, end):
        return Unused(where, reason)
    shown = [(time - start) // STEP * STEP for time in times]
    places = [[(point["x"], point["y"]) for point in frame] for frame in points]
    question = _counting(row)
    turn = question or f"Point to the {label} in the video.", answer(label, shown, places, bool(question))
    return Entry(where, (str(row["video_id"]),), (turn,), **({} if whole else {"start": start, "end": end}))


def _counting(row: Mapping[str, Any]) -> str:
    """The row's own question, which asks for a number, every other time; else empty: for points alone."""
    question = (row["question"] or "").strip()
    drawn = hashlib.sha256(f"{row['video_id']}\n{question}".encode()).digest()
    return question if drawn[0] % 2 else ""


def answer(label: str, times: Sequence[float], points: Sequence[Sequence[Point]], count: bool) -> str:
    """Points as Molmo2 writes them.

    times: seconds of each frame that has points; points: those of each frame, (x, y) in percent of its width and
    height; count: say their number, too. What lies outside of a frame is moved to its edge.
    """
    frames, number = [], 0
    for time, placed in zip(times, points, strict=True):
        places = sorted((_thousandths(x), _thousandths(y)) for x, y in placed)
        words = [f"{number + i} {x:03d} {y:03d}" for i, (x, y) in enumerate(places, start=1)]
        number += len(places)
        if words:
            frames.append(" ".join([str(round(float(time), 1)), *words]))
    if not frames:
        return "There are none."
    written = f'<points coords="{";".join(frames)}">{label}</points>'
    return f"Counting the {written} shows a total of {number}." if count else written


def _thousandths(percent: float) -> int:
    return round(1000 * min(max(percent / 100, 0.0), 1.0))


def _unused(row: Mapping[str, Any], start: float | None, end: float | None) -> str:
    """Why Molmo2 does not train on a row, of which so many seconds would be shown; empty: it does."""
    times, number = row["two_fps_timestamps"], sum(map(len, row["points"]))
    if row.get("annotator_unsure"):
        return "the annotator was unsure"
    if number > MAX_POINTS:
        return f"it has {number} points, more than {MAX_POINTS}"
    longest = min(MAX_SECONDS, row["video_duration"] - (start or 0)) + ROUNDED
    if start is None or end is None or not (0 <= start < end <= start + longest):
        return f"of a video of {row['video_duration']:g} s it names no clip of at most {MAX_SECONDS:g} s"
    if times and not start <= min(times) <= max(times) <= end:
        return "it points at frames outside of its clip"
    return ""
