"""What is as new as the events and of no matter: decoys, which flash like them, and passers-by, who walk through.

Both are in colours that no question asks about. Nothing here is drawn, and no random number spent, where there is
none of them: other clips are as they were before these existed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.random import Generator

from .events import Event
from .spec import BYSTANDERS, SHAPES

if TYPE_CHECKING:
    from .spec import SyntheticSpec

PACE = (0.25, 0.5)
"""Least and greatest speed of a passer-by, in frame widths per second."""


def place_decoys(events: Sequence[Event], spec: SyntheticSpec, rng: Generator) -> list[Event]:
    """spec.decoys shapes of one slot, each in another cell and slot; fewer where events leave less room."""
    if not spec.decoys:
        return []
    cell, side = spec.size // spec.grid, spec.size * 3 // 16
    taken = {(slot, e.x // cell, e.y // cell) for e in events for slot in range(e.slot, e.slot + e.slots)}
    places = [(t, x, y) for t in range(1, spec.slots) for x in range(spec.grid) for y in range(spec.grid)]
    free = [place for place in places if place not in taken]
    decoys = []
    for i in rng.permutation(len(free))[: spec.decoys]:
        slot, column, row = free[i]
        left, top = np.array([column, row]) * cell + rng.integers(0, cell - side + 1, 2)
        decoys.append(
            Event(str(rng.choice(list(BYSTANDERS))), str(rng.choice(SHAPES)), slot, int(left), int(top), side)
        )
    return decoys


def draw_passers(frames: np.ndarray, spec: SyntheticSpec, rng: Generator) -> None:
    """Walk spec.passers upright bars through frames (F, size, size, 3), out on one side and in again on the other."""
    wide, tall = spec.size // 8, spec.size // 3
    for _ in range(spec.passers):
        colour = np.float32(BYSTANDERS[str(rng.choice(list(BYSTANDERS)))])
        top = int(rng.integers(0, spec.size - tall + 1))
        step = rng.uniform(*PACE) * rng.choice((-1, 1)) * spec.size / spec.fps  # pixels per encoded frame
        span = spec.size + wide  # from just outside on one side to just outside on the other
        lefts = np.rint((rng.uniform(0, span) + np.arange(len(frames)) * step) % span).astype(int) - wide
        for frame, left in zip(frames, lefts, strict=True):
            frame[top : top + tall, max(left, 0) : max(left + wide, 0)] = colour
