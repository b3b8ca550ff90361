"""Settings of generated clips, and what they are drawn from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from .kinds import CELLS

TIMES = ("early", "middle", "late")
SLOT_SECONDS = 0.5
FADE_SLOTS = 4
"""Slots over which a fading event appears: no two neighbouring frames differ by much."""
COLOURS = {
    "blue": (40, 70, 235),
    "cyan": (40, 215, 225),
    "green": (30, 170, 50),
    "magenta": (215, 50, 210),
    "red": (225, 35, 35),
    "yellow": (235, 215, 40),
}
"""RGB of the events; what else is there is grey, or in BYSTANDERS."""
BYSTANDERS = {"lime": (150, 230, 30), "orange": (240, 140, 30), "violet": (130, 40, 235)}
"""RGB of what is as striking as the events, and never asked about: decoys and passers-by."""
SHAPES = ("cross", "ring", "square", "triangle")
VERSION = 2
"""Raise it when the same settings would give other clips or questions: older folders are then made anew."""


@dataclass(frozen=True)
class SyntheticSpec:
    """Settings of a generated data set. Raises ValueError, naming the field, when a value is out of range."""

    num_train: int = 256
    """Training clips, one conversation each."""
    num_test: int = 64
    """Test clips, `test_questions_per_clip` questions each."""
    seed: int = 0
    size: int = 72
    """Side of the frames in pixels, even. A shape is 3/16 of it wide, a disc 1/4."""
    slots: int = 10
    """Half seconds in a clip: the frames that sampling at 2 per second returns."""
    fps: int = 8
    """Encoded frames per second, a multiple of 4, so that slots begin and end with a frame."""
    grid: int = 3
    """A shape stays inside one cell of this raster; 1: anywhere in the frame."""
    min_events: int = 2
    max_events: int = 4
    """Coloured shapes per clip, each count equally likely."""
    still: int = 0
    """Further events, there from the first slot to the last."""
    opening: int = 0
    """1: a further event in the first slot only."""
    fading: int = 0
    """Further events, each appearing over FADE_SLOTS slots and staying to the end."""
    movers: int = 3
    """Moving grey discs."""
    lamps: int = 0
    """Grey squares, bright and dark in turns of a slot."""
    decoys: int = 0
    """Shapes of one slot each in colours no question asks about, never in the cell and slot of an event."""
    passers: int = 0
    """Passers-by in such colours, who walk through the picture behind the events."""
    pan: float = 0.0
    """Speed of the background, in frame widths per second."""
    noise: float = 5.0
    """Standard deviation of the sensor noise, in grey levels of 255."""
    questions_per_clip: int = 12
    """Turns of a training conversation; fewer where a clip does not give so many."""
    test_questions_per_clip: int = 4
    direct_share: float = 0.0
    """Share of training turns that ask without options and are answered by the word."""
    shuffle_options: bool = False
    """Shuffle the options of every question instead of keeping one order."""
    cells: tuple[str, ...] = ()
    """Names of CELLS whose settings the clips have in turns, instead of those above. (): all alike."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "cells", tuple(self.cells))  # JSON and YAML bring a list
        if unknown := [name for name in self.cells if name not in CELLS]:
            raise ValueError(f"cells has {unknown[0]!r}, must be of {', '.join(CELLS)}")
        others = self.still + self.opening + self.fading
        most = min(len(COLOURS) - others, self.slots - 1)
        rules = {
            "num_train": (self.num_train >= 0, "must be 0 or more"),
            "num_test": (self.num_test >= 0, "must be 0 or more"),
            "seed": (self.seed >= 0, "must be 0 or more"),
            "size": (self.size >= 32 and self.size % 2 == 0, "must be even and at least 32"),
            "slots": (self.slots > len(TIMES), "must be at least 4"),
            "fps": (self.fps >= 8 and self.fps % 4 == 0, "must be a multiple of 4, at least 8"),
            "grid": (
                1 <= self.grid <= 5 and self.grid**2 > self.still + self.fading,
                "must be 1 to 5, a shape fits no smaller cell, with cells to spare beside still and fading events",
            ),
            "min_events": (self.min_events >= 1, "must be at least 1"),
            "max_events": (
                self.min_events <= self.max_events <= most,
                f"must be between min_events {self.min_events} and {most}",
            ),
            "still": (self.still >= 0, "must be 0 or more"),
            "opening": (self.opening in (0, 1), "must be 0 or 1: two would have no order"),
            "fading": (
                self.fading >= 0 and (not self.fading or self.slots > FADE_SLOTS + 1),
                f"must be 0 or more, and 0 in clips of fewer than {FADE_SLOTS + 2} slots",
            ),
            "movers": (self.movers >= 0, "must be 0 or more"),
            "lamps": (self.lamps >= 0, "must be 0 or more"),
            "decoys": (self.decoys >= 0, "must be 0 or more"),
            "passers": (self.passers >= 0, "must be 0 or more"),
            "pan": (self.pan >= 0, "must be 0 or more"),
            "noise": (self.noise >= 0, "must be 0 or more"),
            "questions_per_clip": (self.questions_per_clip >= 1, "must be at least 1"),
            "test_questions_per_clip": (self.test_questions_per_clip >= 1, "must be at least 1"),
            "direct_share": (0 <= self.direct_share <= 1, "must be in [0, 1]"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)}, {rule}")

    def of_clip(self, index: int) -> tuple[str, SyntheticSpec]:
        """Cell ("" without cells) and settings of clip `index`."""
        if not self.cells:
            return "", self
        cell = self.cells[index % len(self.cells)]
        return cell, dataclasses.replace(self, cells=(), **CELLS[cell])

    @property
    def num_frames(self) -> int:
        """Encoded frames of a clip; the last one is shown at (slots - 1) / 2 seconds."""
        return (self.slots - 1) * self.fps // 2 + 1

    def slot_of_frame(self, frames: np.ndarray) -> np.ndarray:
        """The slot an encoded frame lies in: (F,) int -> (F,) int."""
        return (2 * frames + self.fps // 2) // self.fps
