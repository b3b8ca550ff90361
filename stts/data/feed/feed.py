"""Batches of one training process, without end: examples drawn in order, bad ones left out, rows filled.

A batch says where its process stands after it (`place`), so a run that goes on from there sees the same batches,
whatever had been read ahead. Workers read single examples, which arrive in the order they were asked for;
nothing here depends on how many workers there are.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ...files.durable import append_rows, read_rows
from ..datasets import Mixture
from ..prefetch import prefetch
from .account import BadDataError, load_of, too_many_bad
from .budget import look_ahead, past_context
from .collator import Collator, Example
from .examples import ExampleReader, Unreadable
from .order import Order, Place, positions
from .shorten import shorten
from .tensors import each_tensor
from .workers import Line

logger = logging.getLogger(__name__)

TOLD = 20
"""Examples left out or shortened that are told in the log of the process, too."""
HOST_KEYS = ("ids", "place", "load")
"""Entries of a batch that are not for the model."""


@dataclass(frozen=True)
class FeedSpec:
    """How batches are made. budgets and prune ratio are the collator's."""

    batch_size: int
    """Examples of a batch, or, when looking ahead, rows."""
    seed: int = 0
    pack_buffer: int = 0
    """Examples that wait for a row with room; 0: a batch is the next batch_size ones."""
    too_long: str = "error"
    """An example that no row can hold: "error", "skip" or "truncate_text"."""
    num_workers: int = 0
    rank: int = 0
    num_processes: int = 1
    context_length: int | None = None
    """Positions the model was made for: the first example past them is told. None: any."""
    position_ids: str = "original"
    """As in STTSConfig."""
    log: Path | None = None
    """File that lists what was left out or shortened, a JSON object a line; None: nowhere."""


class Feed:
    """Iterate over it once. dataset: gives the processor's examples; place: where the process stands.

    Its max_bad_fraction (0 where it has none) says how many of its examples may be unreadable: more raise
    BadDataError with a list of them. An example that no row can hold raises ValueError naming it, or is skipped or
    shortened, as spec.too_long says.
    """

    def __init__(
        self,
        dataset: Dataset,
        collate: Collator,
        spec: FeedSpec,
        place: Place | None = None,
        worker_init: Callable[[int], None] | None = None,
    ) -> None:
        parts = (dataset.sizes, spec.seed, dataset.weights) if isinstance(dataset, Mixture) else None
        self.order = Order(*(parts or ([len(dataset)], spec.seed)))
        self.reader = ExampleReader(dataset, self.order)
        self.collate, self.spec = collate, spec
        self.place = place or Place()
        self.line = Line(worker_init) if spec.num_workers else None
        self.max_bad = math.floor(getattr(dataset, "max_bad_fraction", 0.0) * self.order.num_examples)
        self.drawn, self.too_long = self.place.drawn, self.place.too_long
        self.bad = dict.fromkeys(self.place.bad, "")
        self.told_context = False
        self.logged = {(row["example"], row["what"]) for row in read_rows(spec.log)} if spec.log else set()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        wanted = self.spec.pack_buffer or self.spec.batch_size
        waiting: list[Example] = []
        with closing(self._examples()) as examples:
            for example in examples:
                waiting.append(_own(example) if self.spec.pack_buffer else example)
                if len(waiting) == wanted:
                    batch, taken, waiting = self._batch(waiting)
                    load = load_of([self.collate.size(example) for example in taken], len(batch["input_ids"]))
                    yield batch | {"place": self._place(waiting), "load": load}

    def batches(self, pin_memory: bool = False) -> Iterator[dict[str, Any]]:
        """The batches, the next ones made ahead by a thread where there are workers to keep busy.

        Closing the iterator ends thread and workers, whatever these are doing.
        """
        ready = _pinned if pin_memory else _as_it_is
        if self.line:
            return prefetch(ready, self, depth=3, stop=self.line.end)
        return (ready(batch) for batch in self)

    def _batch(self, waiting: list[Example]) -> tuple[dict[str, Any], list[Example], list[Example]]:
        """A batch of examples that wait, those in it, and those that go on waiting."""
        if not self.spec.pack_buffer:
            return self.collate(waiting), waiting, []
        sizes = [self.collate.size(example) for example in waiting]
        rows = look_ahead(sizes, self.collate.budget, self.spec.batch_size)
        numbers = sorted(i for row in rows for i in row)
        batch = self.collate.lay_out([[waiting[i] for i in row] for row in rows])
        left = [example for i, example in enumerate(waiting) if i not in set(numbers)]
        return batch, [waiting[i] for i in numbers], left

    def refuse(self, num_bad: int) -> None:
        """Raises BadDataError when so many examples are bad in all processes together that a run must not go on."""
        if num_bad > self.max_bad:
            raise BadDataError(
                too_many_bad(num_bad, self.bad, self.max_bad, self.order.num_examples, self.spec.log)
            )

    def _place(self, waiting: list[Example]) -> Place:
        positions = tuple(example["position"] for example in waiting)
        return Place(self.place.start, self.drawn, positions, tuple(self.bad), self.too_long)

    def _examples(self) -> Iterator[Example]:
        """Examples that can be read and fit, in order."""
        left_out = 0
        loader = self._loader()
        with self.line.items(loader) if self.line else nullcontext(loader) as items:
            for number, item in enumerate(items):
                example = self._drawn(item, again=number < len(self.place.waiting))
                left_out = 0 if example is not None else left_out + 1
                if left_out >= self.order.num_examples:
                    raise BadDataError("not one example of the training data can be read and fits into a row")
                if example is not None:
                    self._look_at_context(example)
                    yield example

    def _drawn(self, item: Example | Unreadable, again: bool) -> Example | None:
        """An example as it is trained on, or None, counted. again: it was waiting, and has been counted."""
        too_long = self.too_long
        example = self._noted(item) if isinstance(item, Unreadable) else self._fitted(item)
        if again:
            self.too_long = too_long
        else:
            self.drawn += 1
        return example

    def _loader(self) -> DataLoader:
        spec = self.spec
        ahead = max(2, math.ceil(2 * spec.batch_size / max(spec.num_workers, 1)))
        return DataLoader(
            self.reader,
            batch_size=None,
            sampler=positions(self.place, spec.batch_size, spec.rank, spec.num_processes),
            collate_fn=_as_it_is,
            num_workers=spec.num_workers,
            prefetch_factor=ahead if spec.num_workers else None,
            worker_init_fn=self.line.begin if self.line else None,
            generator=torch.Generator().manual_seed(spec.seed),  # else it draws from the model's numbers
        )

    def _noted(self, item: Unreadable) -> None:
        """Count an example that cannot be read, once. Raises BadDataError when there are too many."""
        self._log(item.name, "unreadable", item.error)
        self.bad[item.name] = item.error
        self.refuse(len(self.bad))

    def _fitted(self, example: Example) -> Example | None:
        """The example, shortened where that is the policy and helps; None when it is skipped."""
        if self.collate.budget.holds(self.collate.size(example)):
            return example
        shorter = None
        try:
            if self.spec.too_long == "truncate_text":
                shorter = shorten(example, self.collate)
                tokens = f"{len(shorter['input_ids'])} of {len(example['input_ids'])} tokens are left"
                self._log(example["id"], "shortened", tokens)
            else:
                self.collate.refuse(example)
        except ValueError as error:
            if self.spec.too_long == "error":
                raise ValueError(f"{error}; or set train.too_long to skip or truncate_text") from None
            self._log(example["id"], "skipped", str(error))
        self.too_long += 1
        return shorter

    def _look_at_context(self, example: Example) -> None:
        """Warn of the first example that goes past the positions the model was made for."""
        if self.told_context:
            return
        tokens, size = len(example["input_ids"]), self.collate.size(example)
        if past := past_context(tokens, size, self.spec.context_length, self.spec.position_ids):
            logger.warning("example %r has %s (later ones are not told)", example["id"], past)
            self.told_context = True

    def _log(self, name: str, what: str, reason: str) -> None:
        """Once for each example, also over the starts of a run; the first few are told as well."""
        if (name, what) in self.logged:
            return
        self.logged.add((name, what))
        if self.spec.log:
            append_rows(self.spec.log, [{"example": name, "what": what, "reason": reason}])
        if len(self.logged) <= TOLD:
            more = f" (the last one told; all are in {self.spec.log})" if len(self.logged) == TOLD else ""
            logger.warning("%s: %s: %s%s", what, name, reason, more)


def _own(example: Example) -> Example:
    """Copied out of the memory shared with a worker: what waits long must not use that up."""
    return {k: v.clone() if isinstance(v, torch.Tensor) and v.is_shared() else v for k, v in example.items()}


def _pinned(batch: dict[str, Any]) -> dict[str, Any]:
    return each_tensor(batch, torch.Tensor.pin_memory)


def _as_it_is(item: Any) -> Any:
    return item
