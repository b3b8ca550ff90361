"""Text on pictures: a font for every character that an installed one has, a question mark for the others."""

from __future__ import annotations

import logging
import unicodedata
from functools import cache

import matplotlib
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.ft2font import FT2Font

logger = logging.getLogger(__name__)

UNKNOWN = "?"
USELESS = ("Last Resort", "Color Emoji", "STIX", "cm")
"""In the names of fonts that draw boxes, cannot be scaled, or hold mathematics under the numbers of letters."""


def drawable(text: str) -> str:
    """The text as matplotlib is to be given it, nothing in it read as mathematics.

    Fonts that it needs join those that all text falls back on. What no font has becomes a question mark, told once in
    the log; marks that only change the look of their neighbours are left out, other white space is a space.
    """
    kept = "".join(c for c in map(_plain, text) if c == "\n" or _has(_default(), c) or not _is_mark(c))
    wanted = {c for c in kept if c != "\n"} - _covered()
    for name, path in _other_fonts():
        if not wanted:
            break
        if found := {c for c in wanted if _has(path, c)}:
            matplotlib.rcParams["font.family"] = [*matplotlib.rcParams["font.family"], name]
            wanted -= found
    for c in wanted:
        _tell_missing(c)
    return "".join(UNKNOWN if c in wanted else c for c in kept).replace("$", r"\$")


def _plain(c: str) -> str:
    return " " if c.isspace() and c != "\n" else c


def _is_mark(c: str) -> bool:
    """Joiners, directions, variants of emoji and control characters."""
    return unicodedata.category(c) in ("Cf", "Cc", "Mn")


def _covered() -> set[str]:
    """Characters of the fonts in use."""
    named = set(matplotlib.rcParams["font.family"])
    paths = [_default(), *(path for name, path in _other_fonts() if name in named)]
    return {chr(code) for path in paths for code in _characters(path)}


@cache
def _default() -> str:
    return fontManager.findfont(FontProperties(family=["sans-serif"]))


def _other_fonts() -> list[tuple[str, str]]:
    """(name, file) of installed fonts, a face each, by name."""
    faces = {font.name: font.fname for font in fontManager.ttflist if font.style == "normal"}
    return sorted((name, path) for name, path in faces.items() if not any(word in name for word in USELESS))


def _has(path: str, c: str) -> bool:
    return ord(c) in _characters(path)


@cache
def _characters(path: str) -> frozenset[int]:
    """What a font has; nothing where it cannot be read."""
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


@cache
def _tell_missing(c: str) -> None:
    """Once for each character, in one line for those of a script that has no font at all."""
    _tell_script(unicodedata.name(c, "unknown character").split()[0].split("-")[0].lower())


@cache
def _tell_script(script: str) -> None:
    logger.warning(
        "no installed font has some characters (%s): drawn as %s; a font such as Noto Sans CJK would help",
        script,
        UNKNOWN,
    )
