"""The order of the training data, and the share of it that one process reads.

Both are functions of the seed and of a position, so going on needs no replay: a run that stops remembers one
number, and the few examples that its packer still held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it spread over [0, 1) more evenly than random numbers, in every stretch of them."""
BLOCK = 1 << 16
"""Positions whose parts are worked out at once."""


class Order:
    """Which example stands at each position of an endless stream: order[position] -> number of the example.

    sizes: examples of each part, numbered through; weights: share of each part in the stream, to any sum. Within
    a part, epoch after epoch comes in an order of its own and nothing is left out. Without weights the parts
    are one. Any n positions in a row hold weight * n examples of a part, give or take a few.
    """

    def __init__(self, sizes: Sequence[int], seed: int, weights: Sequence[float] | None = None) -> None:
        if not sizes or any(size < 1 for size in sizes):
            raise ValueError("the training data has no examples")
        self.seed = seed
        self.num_examples = sum(sizes)
        sizes = [self.num_examples] if weights is None else list(sizes)
        shares = np.array([1.0] if weights is None else weights, dtype=np.float64)
        self.sizes = sizes
        self.first = [sum(sizes[:part]) for part in range(len(sizes))]
        self.borders = (shares / shares.sum()).cumsum()[:-1]
        self.drawn = [np.zeros(len(sizes), dtype=np.int64)]  # of each part, before each block
        self.permutation = lru_cache(maxsize=2 * len(sizes))(self._permutation)
        self.block = lru_cache(maxsize=2)(self._block)

    def __getitem__(self, position: int) -> int:
        parts, turns = self.block(position // BLOCK)
        part, turn = int(parts[position % BLOCK]), int(turns[position % BLOCK])
        epoch, place = divmod(turn, self.sizes[part])
        return self.first[part] + int(self.permutation(part, epoch)[place])

    def __getstate__(self) -> tuple:
        return self.sizes, self.seed, self.borders  # for processes that are spawned: caches stay behind

    def __setstate__(self, state: tuple) -> None:
        sizes, seed, borders = state
        self.__init__(sizes, seed, np.diff(borders, prepend=0.0, append=1.0))

    def _permutation(self, part: int, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch, part]).permutation(self.sizes[part])

    def _parts(self, block: int) -> np.ndarray:
        """The part of each position of a block, (BLOCK,) int64."""
        spread = (np.arange(block * BLOCK, (block + 1) * BLOCK) * GOLDEN) % 1.0
        return np.searchsorted(self.borders, spread, side="right")

    def _block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Part of each position of a block, and how many of that part came before: two (BLOCK,) int64."""
        while len(self.drawn) <= block:
            counts = np.bincount(self._parts(len(self.drawn) - 1), minlength=len(self.sizes))
            self.drawn.append(self.drawn[-1] + counts)
        parts = self._parts(block)
        turns = np.empty(BLOCK, dtype=np.int64)
        for part, before in enumerate(self.drawn[block]):
            here = parts == part
            turns[here] = before + np.arange(here.sum())
        return parts, turns


@dataclass(frozen=True)
class Place:
    """Where one process stands in the order: what a checkpoint keeps of its data."""

    start: int = 0
    """The position from which the processes deal out the order between them."""
    drawn: int = 0
    """Examples this process has drawn since, those it skipped included."""
    waiting: tuple[int, ...] = ()
    """Positions of examples drawn but not trained on yet, oldest first."""
    bad: tuple[str, ...] = ()
    """Examples that could not be read, by name."""
    too_long: int = 0
    """Examples skipped or shortened because they were too long."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Place:
        """From the JSON of dataclasses.asdict."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def own_position(place: Place, turn: int, batch_size: int, rank: int, num_processes: int) -> int:
    """Position of the turn-th example that a process draws: batch_size in a row, then the others' turn."""
    batch, offset = divmod(turn, batch_size)
    return place.start + (batch * num_processes + rank) * batch_size + offset


def positions(place: Place, batch_size: int, rank: int, num_processes: int) -> Iterator[int]:
    """What a process reads from its place on, without end: first what was waiting."""
    yield from place.waiting
    turn = place.drawn
    while True:
        yield own_position(place, turn, batch_size, rank, num_processes)
        turn += 1


def deal_again(places: Sequence[Place], batch_size: int, num_processes: int) -> list[Place]:
    """The places of a run that goes on with another number of processes: nothing is lost, nothing comes twice.

    places: one for each process before, in order of rank.
    """
    if len(places) == num_processes:
        return list(places)
    batches = max(-(-place.drawn // batch_size) for place in places)
    left = [position for place in places for position in place.waiting]
    for rank, place in enumerate(places):
        turns = range(place.drawn, batches * batch_size)
        left += [own_position(place, turn, batch_size, rank, len(places)) for turn in turns]
    start = places[0].start + batches * batch_size * len(places)
    bad = tuple(dict.fromkeys(name for place in places for name in place.bad))
    too_long = sum(place.too_long for place in places)
    first = Place(start, 0, _every(left, 0, num_processes), bad, too_long)
    return [first] + [Place(start, 0, _every(left, rank, num_processes)) for rank in range(1, num_processes)]


def _every(left: Iterable[int], rank: int, num_processes: int) -> tuple[int, ...]:
    return tuple(sorted(left)[rank::num_processes])
