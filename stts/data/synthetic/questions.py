"""What can be asked about a generated clip, and what the right answers are.

Every event has a *name*: its colour or, where no other event of the clip has it, its shape. Questions call it
by that name and ask for the other attribute, never the other way round, so that in a conversation of many
questions none spells out what another one asks. What they still give away, such as a bound on the count, any
conversation about a clip does. Nothing is asked about the time or the order of events that last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from numpy.random import Generator

from .events import Event
from .spec import COLOURS, SHAPES, TIMES

if TYPE_CHECKING:
    from .spec import SyntheticSpec

VALUES = {"colour": tuple(COLOURS), "shape": SHAPES}
NUMBERS = ("one", "two", "three", "four", "five", "six")


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
    in_order = () if any(event.lasts for event in events) else (("first", events[0]), ("last", events[-1]))
    for place, event in in_order:
        for asked, values in VALUES.items():
            pool.add(place, f"What {asked} came {place}?", values, getattr(event, asked), [event])
    others = spec.still + spec.fading + spec.opening
    numbers = NUMBERS[spec.min_events + others - 1 : spec.max_events + others]
    if len(numbers) > 1:
        pool.add("count", "How many coloured shapes were shown?", numbers, NUMBERS[len(events) - 1], events)
    for i in rng.permutation(len(events))[:2]:
        _ask_whether(pool, events, hidden[i], getattr(events[i], hidden[i]))
    return list(pool.questions.values())


def _ask_about(pool: Pool, event: Event, asked: str) -> None:
    """What it was and when it was shown."""
    name = event.shape if asked == "colour" else f"{event.colour} one"
    pool.add(asked, f"What {asked} was the {name}?", VALUES[asked], getattr(event, asked), [event])
    if not event.lasts:
        pool.add("when", f"When was the {name} shown?", TIMES, third_of(event.slot, pool.spec.slots), [event])


def third_of(slot: int, slots: int) -> str:
    """The word for when a slot of a clip is; the opening one is early."""
    return TIMES[max(0, slot - 1) * len(TIMES) // (slots - 1)]


def _ask_whether(pool: Pool, events: Sequence[Event], asked: str, value: str) -> None:
    """Two questions, so that yes is as frequent as no: about a value that was shown and about another."""
    text = "Was there a {} one?" if asked == "colour" else "Was there a coloured {}?"
    present = {getattr(event, asked) for event in events}
    absent = [v for v in VALUES[asked] if v not in present and text.format(v) not in pool.questions]
    if absent and text.format(value) not in pool.questions:
        shown = [event for event in events if getattr(event, asked) == value]
        pool.add("seen", text.format(value), ("yes", "no"), "yes", shown)
        pool.add("seen", text.format(pool.rng.choice(absent)), ("yes", "no"), "no", [])
