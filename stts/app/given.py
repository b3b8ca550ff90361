"""What a visitor has chosen, as the page hands it over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .models import Setting

LOOK, COMPARE, ASK = "Look", "Compare", "Ask"


@dataclass(frozen=True)
class Given:
    """The values of all controls."""

    view: str
    clip: str
    frames: int
    sides: dict[str, Setting]
    """By letter, those that the view shows: one to look at, both to compare and to ask."""
    question: str
    options: tuple[str, ...]

    @classmethod
    def of(cls, values: Sequence[Any]) -> Given:
        """values: of the controls, in the order of the page."""
        view, clip, frames, *sides, question, options = values
        chosen = {"A": Setting(*sides[:3]), "B": Setting(*sides[3:])}
        shown = {"A": chosen["A"]} if view == LOOK else chosen
        listed = tuple(option.strip() for option in (options or "").split(",") if option.strip())
        return cls(view, clip, int(frames), shown, question or "", listed)
