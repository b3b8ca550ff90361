"""What can be asked about a generated clip, and what the right answers are.

Every event has a *name*: its colour or, where no other event of the clip has it, its shape. Questions call it
by that name and ask for the other attribute, never the other way round, so that in a conversation of many
questions none spells out what another one asks. What they still give away, such as a bound on the count, any
conversation about a clip does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from numpy.random import Generator

from .render import COLOURS, SHAPES

if TYPE_CHECKING:
    from .synthetic import SyntheticSpec

VALUES = {"colour": tuple(COLOURS), "shape": SHAPES}
TIMES = ("early", "middle", "late")
NUMBERS = ("one", "two", "three", "four", "five", "six")
SLOT_SECONDS = 0.5


@dataclass(frozen=True)
class Event:
    """A coloured shape, shown for one slot."""

    colour: str
    shape: str
    slot: int
    x: int
    y: int
    side: int
    """Left and top edge and width of its box, in pixels."""

    def evidence(self, size: int) -> dict:
        """When and where it can be seen: seconds, and a box in coordinates of a frame of side 1."""
        corners = (self.x, self.y, self.x + self.side, self.y + self.side)
        return {
            "start": (self.slot - 0.5) * SLOT_SECONDS,
            "end": (self.slot + 0.5) * SLOT_SECONDS,
            "box": [round(corner / size, 6) for corner in corners],
        }


class Pool:
    """Questions about one clip, none twice."""

    def __init__(self, spec: SyntheticSpec, rng: Generator) -> None:
        self.spec, self.rng = spec, rng
        self.questions: dict[str, dict] = {}

    def add(
        self, category: str, question: str, options: Sequence[str], answer: str, shown: Sequence[Event]
    ) -> None:
        """shown: the events that must be seen to know the answer."""
        order = self.rng.permutation(len(options)) if self.spec.shuffle_options else range(len(options))
        self.questions[question] = {
            "question": question,
            "options": [options[i] for i in order],
            "answer": answer,
            "category": category,
            "evidence": [event.evidence(self.spec.size) for event in shown],
        }


def ask_all(events: Sequence[Event], spec: SyntheticSpec, rng: Generator) -> list[dict]:
    """Every question about a clip: {"question", "options", "answer", "category", "evidence"}.

    events: in the order they are shown. Options come in a fixed order unless spec.shuffle_options.
    """
    pool = Pool(spec, rng)
    shapes = [event.shape for event in events]
    hidden = []  # of each event, the attribute that is asked for
    for event in events:
        by_shape = shapes.count(event.shape) == 1 and rng.random() < 0.5
        hidden.append("colour" if by_shape else "shape")
        _ask_about(pool, event, hidden[-1])
    for place, event in (("first", events[0]), ("last", events[-1])):
        for asked, values in VALUES.items():
            pool.add(place, f"What {asked} came {place}?", values, getattr(event, asked), [event])
    numbers = NUMBERS[spec.min_events - 1 : spec.max_events]
    if len(numbers) > 1:
        pool.add("count", "How many coloured shapes were shown?", numbers, NUMBERS[len(events) - 1], events)
    for i in rng.permutation(len(events))[:2]:
        _ask_whether(pool, events, hidden[i], getattr(events[i], hidden[i]))
    return list(pool.questions.values())


def _ask_about(pool: Pool, event: Event, asked: str) -> None:
    """What it was and when it was shown."""
    name = event.shape if asked == "colour" else f"{event.colour} one"
    pool.add(asked, f"What {asked} was the {name}?", VALUES[asked], getattr(event, asked), [event])
    third = TIMES[(event.slot - 1) * len(TIMES) // (pool.spec.slots - 1)]
    pool.add("when", f"When was the {name} shown?", TIMES, third, [event])


def _ask_whether(pool: Pool, events: Sequence[Event], asked: str, value: str) -> None:
    """Two questions, so that yes is as frequent as no: about a value that was shown and about another."""
    text = "Was there a {} one?" if asked == "colour" else "Was there a coloured {}?"
    present = {getattr(event, asked) for event in events}
    absent = [v for v in VALUES[asked] if v not in present and text.format(v) not in pool.questions]
    if absent and text.format(value) not in pool.questions:
        shown = [event for event in events if getattr(event, asked) == value]
        pool.add("seen", text.format(value), ("yes", "no"), "yes", shown)
        pool.add("seen", text.format(pool.rng.choice(absent)), ("yes", "no"), "no", [])
