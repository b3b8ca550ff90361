"""What happens in a generated clip: coloured shapes, when and where they can be seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.random import Generator

from .spec import COLOURS, FADE_SLOTS, SHAPES, SLOT_SECONDS

if TYPE_CHECKING:
    from .spec import SyntheticSpec


@dataclass(frozen=True)
class Event:
    """A coloured shape."""

    colour: str
    shape: str
    slot: int
    """The first slot it is shown in."""
    x: int
    y: int
    side: int
    """Left and top edge and width of its box, in pixels."""
    slots: int = 1
    """How many slots it is shown in."""
    fades: bool = False
    """It appears little by little over its first FADE_SLOTS slots."""

    @property
    def lasts(self) -> bool:
        """Whether it is there for longer than a slot: then nothing is asked about its time."""
        return self.slots > 1

    def opacity(self, slot: int) -> float:
        """0 (not there) to 1, in one slot of the clip."""
        if not self.slot <= slot < self.slot + self.slots:
            return 0.0
        return min(1.0, (slot - self.slot + 1) / FADE_SLOTS) if self.fades else 1.0

    def evidence(self, size: int) -> dict:
        """When and where it can be made out: seconds, and a box in coordinates of a frame of side 1."""
        hidden = FADE_SLOTS // 2 if self.fades else 0  # slots of less than half opacity
        corners = (self.x, self.y, self.x + self.side, self.y + self.side)
        return {
            "start": max(0.0, (self.slot + hidden - 0.5) * SLOT_SECONDS),
            "end": (self.slot + self.slots - 0.5) * SLOT_SECONDS,
            "box": [round(corner / size, 6) for corner in corners],
        }


def draw_events(spec: SyntheticSpec, rng: Generator) -> list[Event]:
    """The events of one clip, in the order they begin."""
    flashes = int(rng.integers(spec.min_events, spec.max_events + 1))
    slots = np.sort(rng.choice(np.arange(1, spec.slots), flashes, replace=False))
    spans = [(0, spec.slots, False)] * spec.still  # first slot, how many, whether it fades in
    for _ in range(spec.fading):
        slot = int(rng.integers(1, spec.slots - FADE_SLOTS))
        spans.append((slot, spec.slots - slot, True))
    spans += [(0, 1, False)] * spec.opening + [(int(slot), 1, False) for slot in slots]
    colours = rng.choice(list(COLOURS), len(spans), replace=False)
    shapes = rng.choice(SHAPES, len(spans))
    side = spec.size * 3 // 16
    corners = _draw_corners(len(spans), spec.still + spec.fading, side, spec, rng)
    events = [
        Event(str(colour), str(shape), slot, int(x), int(y), side, length, fades)
        for (slot, length, fades), colour, shape, (x, y) in zip(spans, colours, shapes, corners, strict=True)
    ]
    return sorted(events, key=lambda event: event.slot)


def _draw_corners(count: int, lasting: int, side: int, spec: SyntheticSpec, rng: Generator) -> np.ndarray:
    """Left and top of each event, (count, 2): inside a cell of the raster, which the first `lasting` share with
    nobody."""
    cell = spec.size // spec.grid
    cells = rng.integers(0, spec.grid, (count, 2))
    while _covered(cells, lasting):
        cells = rng.integers(0, spec.grid, (count, 2))
    return cells * cell + rng.integers(0, cell - side + 1, (count, 2))


def _covered(cells: np.ndarray, lasting: int) -> bool:
    """Whether another event lies in the cell of one of the first `lasting`."""
    same = (cells[:lasting, None] == cells).all(-1)  # (lasting, count)
    return same.sum() > lasting
