"""Titles in any script: a font where there is one, a question mark and one line in the log where not."""

from __future__ import annotations

import warnings

import matplotlib
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager

from stts.viz import lettering
from stts.viz.lettering import drawable
from stts.viz.overlay import draw_kept

HIDDEN = "\U00010380"
"""A letter of Ugaritic, which no font here is expected to have."""


@pytest.fixture(autouse=True)
def _fonts_as_before(monkeypatch):
    monkeypatch.setitem(matplotlib.rcParams, "font.family", ["sans-serif"])
    monkeypatch.setattr(fontManager, "ttflist", list(fontManager.ttflist))
    for told in (lettering._tell_missing, lettering._tell_script):
        told.cache_clear()


@pytest.fixture
def font(tmp_path):
    """An installed font with one Ugaritic letter."""
    pen = TTGlyphPen(None)
    for place in ((0, 0), (0, 500), (500, 500)):
        (pen.lineTo if pen.points else pen.moveTo)(place)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "letter"])
    builder.setupCharacterMap({ord(HIDDEN): "letter"})
    builder.setupGlyf({name: pen.glyph() for name in (".notdef", "letter")})
    builder.setupHorizontalMetrics(dict.fromkeys((".notdef", "letter"), (600, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Ugarit", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "ugarit.ttf")
    fontManager.addfont(tmp_path / "ugarit.ttf")
    return "Ugarit"


def draw(tmp_path, title: str) -> None:
    """A picture with a title and a row's name; a warning is an error."""
    frames, keep = np.zeros((2, 8, 8, 3), np.uint8), np.ones((2, 2, 2), bool)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_kept(frames, {title: keep}, tmp_path / "kept.png", title=title)


@pytest.mark.parametrize(
    "text",
    [
        "选哪个、正解はBです",
        "what 🙂👍🏽\ufe0f is\u200d it",
        "$\\frac$ for $5",
        "a\tb\rc\x07",
        "العربية \u202e",
        HIDDEN,
    ],
)
def test_any_title_can_be_drawn_without_a_warning(tmp_path, text):
    draw(tmp_path, text)


def test_an_installed_font_draws_what_the_default_lacks(tmp_path, font, caplog):
    assert drawable(f"a{HIDDEN}") == f"a{HIDDEN}"
    assert matplotlib.rcParams["font.family"] == ["sans-serif", font]
    assert drawable(HIDDEN * 2) == HIDDEN * 2
    assert matplotlib.rcParams["font.family"] == ["sans-serif", font]
    draw(tmp_path, f"a{HIDDEN}")
    assert not caplog.records


def test_what_no_font_has_is_told_once(caplog):
    assert drawable(f"é{HIDDEN}→{HIDDEN}") == "é?→?"
    assert drawable(HIDDEN) == "?"
    assert drawable("\U00010381") == "?"
    assert len(caplog.records) == 1
    assert "ugaritic" in caplog.text


def test_mathematics_is_text():
    assert drawable("$x$") == r"\$x\$"
