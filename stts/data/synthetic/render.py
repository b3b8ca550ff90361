"""The pixels of a generated clip: background, discs and lamps in grey, what else moves or flashes, the events,
noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.random import Generator

from .bystanders import draw_passers, place_decoys
from .spec import BYSTANDERS, COLOURS

if TYPE_CHECKING:
    from .events import Event
    from .spec import SyntheticSpec

BACKGROUND = (70, 150)
"""Darkest and brightest block, in grey levels of 255."""
TEXTURE = 10
"""Fine texture on the blocks, in grey levels to either side."""
LAMP = (20, 220)
"""Dark and bright, in grey levels of 255."""
SPEED = (0.12, 0.24)
"""Least and greatest speed of a disc along each axis, in frame widths per second."""


def render_clip(events: Sequence[Event], spec: SyntheticSpec, rng: Generator) -> np.ndarray:
    """Draw the encoded frames of one clip: (F, size, size, 3) uint8 RGB."""
    slots = spec.slot_of_frame(np.arange(spec.num_frames))
    grey = np.repeat(_background(spec.size, rng)[None], spec.num_frames, axis=0)
    if spec.pan:
        _pan(grey, spec, rng)
    for _ in range(spec.movers):
        _draw_disc(grey, spec, rng)
    for _ in range(spec.lamps):
        _draw_lamp(grey, slots, rng)
    frames = np.repeat(grey[..., None], 3, axis=-1)
    draw_passers(frames, spec, rng)
    for event in (*place_decoys(events, spec, rng), *events):
        _draw_event(frames, slots, event)
    frames += spec.noise * rng.standard_normal(grey.shape, dtype=np.float32)[..., None]
    return frames.round().clip(0, 255).astype(np.uint8)


def shape_mask(shape: str, side: int) -> np.ndarray:
    """The pixels a shape covers in its box: (side, side) bool, touching all four edges."""
    y, x = np.mgrid[:side, :side]
    across, down = np.abs(2 * x - side + 1), np.abs(2 * y - side + 1)  # twice the distance from the middle
    radius = across**2 + down**2
    masks = {
        "cross": (3 * across < side) | (3 * down < side),
        "ring": (radius <= side**2) & (4 * radius >= side**2),
        "square": np.ones((side, side), dtype=bool),
        "triangle": across <= y + 1,
    }
    return masks[shape]


def _background(size: int, rng: Generator) -> np.ndarray:
    """Grey blocks, 8 along each side, under fine texture: (size, size) float32."""
    block = -(-size // 8)
    blocks = rng.uniform(*BACKGROUND, (8, 8)).repeat(block, axis=0).repeat(block, axis=1)[:size, :size]
    return (blocks + rng.uniform(-TEXTURE, TEXTURE, (size, size))).astype(np.float32)


def _draw_event(frames: np.ndarray, slots: np.ndarray, event: Event) -> None:
    """Draw one event into frames (F, size, size, 3), the slot of each of which is in slots (F,)."""
    opacity = np.array([event.opacity(slot) for slot in slots], dtype=np.float32)
    (shown,) = np.nonzero(opacity)
    frames = frames[shown[0] : shown[-1] + 1, event.y : event.y + event.side, event.x : event.x + event.side]
    mask, opacity = shape_mask(event.shape, event.side), opacity[shown, None, None]
    frames[:, mask] += opacity * (np.float32((COLOURS | BYSTANDERS)[event.colour]) - frames[:, mask])


def _pan(grey: np.ndarray, spec: SyntheticSpec, rng: Generator) -> None:
    """Shift the background sideways, to the left or to the right; what leaves the frame enters on the other side."""
    step = spec.pan * spec.size / spec.fps * rng.choice((-1, 1))  # pixels per encoded frame
    for number, frame in enumerate(grey):
        frame[:] = np.roll(frame, round(number * step), axis=1)


def _draw_lamp(grey: np.ndarray, slots: np.ndarray, rng: Generator) -> None:
    """Draw a square that is bright in every other slot and dark in between."""
    side = grey.shape[1] // 6
    left, top = rng.integers(0, grey.shape[1] - side + 1, 2)
    levels = np.float32(LAMP)[(slots + rng.integers(2)) % 2]
    grey[:, top : top + side, left : left + side] = levels[:, None, None]


def _draw_disc(grey: np.ndarray, spec: SyntheticSpec, rng: Generator) -> None:
    """Draw one disc on its way through grey (F, size, size), bouncing off the borders."""
    side = spec.size // 4
    span = spec.size - side
    step = rng.uniform(*SPEED, 2) * rng.choice((-1, 1), 2) * spec.size / spec.fps  # pixels per encoded frame
    travelled = rng.uniform(0, span, 2) + np.arange(len(grey))[:, None] * step  # (F, 2)
    corners = np.rint(span - np.abs(span - travelled % (2 * span))).astype(int)
    y, x = np.mgrid[:side, :side] * 2 - side + 1
    disc = x**2 + y**2 <= side**2
    level = rng.choice((20, 40, 190, 220))  # darker or brighter than any block
    for frame, (left, top) in zip(grey, corners, strict=True):
        frame[top : top + side, left : left + side][disc] = level
