"""Subtitle files, and the part of them that a model is shown beside the frames it sees.

Two kinds, in UTF-8 or with the mark of UTF-16: SRT (or WebVTT), and JSON lists in the two layouts of LongVideoBench,
{"start": "00:00:01.500", "end": ..., "line"} and {"timestamp": [seconds, seconds or null], "text"}.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from ...data.prompts import check_text

MARGIN = 1.0
"""Seconds before and after a frame whose cues are shown with it."""
HEADER = "Subtitles:"

_TIME = r"(?:(\d{1,6}):)?(\d{1,2}):(\d{1,2}(?:[.,]\d{1,9})?)"
_RANGE = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}")
_TIMING = re.compile(r"\s*[\d:.,]+\s*-->")
"""Begins a line that can only be meant as a range."""
_TAG = re.compile(
    r"</?(?:i|b|u|s|ruby|rt|c|v|lang|font)>|<[cibu](?:\.[\w-]+)+>|<font\s[^<>]*=[^<>]*>|<lang\s[\w-]+>|"
    r"^\s*(?:-\s*)?<v(?:\.[\w-]+)*\s[^<>]*>|<[\d:.]+>|\{\\[^}]*\}",
    re.IGNORECASE,
)


class SubtitleError(ValueError):
    """A subtitle file that cannot be read."""


class Cue(NamedTuple):
    """One line of subtitles; seconds from the beginning of the video."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Subtitles:
    """The subtitles of one video. A file that is not there means that the video has none."""

    path: Path
    offset: float = 0.0
    """What the file's clock shows when the video begins."""
    duration: float | None = None
    """Seconds of the video: cues that lie outside it are left out. None: all are kept."""

    def cues(self) -> tuple[Cue, ...]:
        """In the order of the file. Raises SubtitleError naming a file, and the place in it, that cannot be read."""
        return _cues(self) if self.path.is_file() else ()

    def shown(self, times: Iterable[float]) -> str:
        """The cues within MARGIN of frames at these seconds, one a line below a header; empty where none is."""
        times = list(times)
        lines = [
            f"{cue.start:.1f} - {cue.end:.1f} {cue.text}"
            for cue in self.cues()
            if any(cue.start <= time + MARGIN and time - MARGIN <= cue.end for time in times)
        ]
        return "\n".join([HEADER, *lines]) if lines else ""


@cache
def _cues(subtitles: Subtitles) -> tuple[Cue, ...]:
    path, begin = subtitles.path, subtitles.offset
    stop = math.inf if subtitles.duration is None else begin + subtitles.duration
    try:
        content = _decoded(path.read_bytes())
        found = _from_json(content) if path.suffix == ".json" else _from_srt(content)
        return tuple(
            Cue(max(start - begin, 0.0), (_known(stop) if end is None else end) - begin, text)
            for start, end, text in found
            if text and start <= stop and (end is None or end >= begin)
        )
    except (
        ValueError,
        OverflowError,
        RecursionError,
        OSError,
    ) as error:  # wrong JSON and UTF-8 are ValueErrors, too
        raise SubtitleError(f"{path}: cannot be read as subtitles: {error}") from error


def _decoded(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{error}: save it as UTF-8") from error


def _known(stop: float) -> float:
    if stop == math.inf:
        raise ValueError("a cue has no end, and the length of the video is not given")
    return stop


def _from_srt(text: str) -> Iterator[tuple[float, float, str]]:
    """Tolerates cues without a number, of several lines, empty lines inside them and arrows in what is said; tags are
    removed."""
    lines = text.splitlines()
    starts = [number for number, line in enumerate(lines) if _TIMING.match(line)]
    if not starts and text.strip():
        raise ValueError("no line holds '-->' after a time")
    for start, following in pairwise([*starts, len(lines)]):
        if not (match := _RANGE.match(lines[start])):
            raise ValueError(f"line {start + 1} is {lines[start]!r}, must be 00:00:01,500 --> 00:00:03,000")
        said = lines[start + 1 : following]
        if following < len(lines) and said and said[-1].strip().isdigit():
            said.pop()  # the number of the cue that follows
        yield _seconds(*match.groups()[:3]), _seconds(*match.groups()[3:]), _clean(said)


def _from_json(text: str) -> Iterator[tuple[float, float | None, str]]:
    cues = json.loads(text)
    if not isinstance(cues, list):
        raise ValueError("must hold a JSON list of cues")
    for number, cue in enumerate(cues):
        try:
            start, end = cue["timestamp"] if "timestamp" in cue else (cue["start"], cue["end"])
            yield _number(start), None if end is None else _number(end), _clean([_text(cue)])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"cue {number} is {cue!r}: {type(error).__name__} {error}") from error


def _text(cue: Mapping[str, Any]) -> str:
    text = cue["text"] if "timestamp" in cue else cue["line"]
    if not isinstance(text, str):
        raise ValueError(f"its text is {text!r}")
    return text


def _number(time: Any) -> float:
    if isinstance(time, str):
        if not (match := re.fullmatch(_TIME, time.strip())):
            raise ValueError(f"{time!r} must be HH:MM:SS.mmm")
        return _seconds(*match.groups())
    if not math.isfinite(found := float(time)):
        raise ValueError(f"{time!r} must be seconds")
    return found


def _seconds(hours: str | None, minutes: str, seconds: str) -> float:
    return 3600 * int(hours or 0) + 60 * int(minutes) + float(seconds.replace(",", "."))


def _clean(lines: Sequence[str]) -> str:
    text = " ".join(" ".join(_TAG.sub("", line) for line in lines).split())
    check_text(text, "a cue")
    return text
