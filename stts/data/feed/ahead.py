"""Making the next items of an iterator while the last one is being used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 10.0
"""Seconds to wait for an item that is being made when none is wanted any more: a process told to stop must end."""
POLL = 0.1
"""Seconds after which a thread with nothing to do looks whether it is still wanted."""


def ahead(
    items: Callable[[], Iterable[T]], depth: int = 2, stop: Callable[[], None] | None = None
) -> Iterator[T]:
    """The items, in order, made by a thread that is up to `depth` of them ahead.

    An exception comes where its item would have come. Closing the iterator ends the thread; items is called, and
    its iterator closed, in there. stop: called then, to end what an item that is being made may be waiting for.
    """
    ready: queue.Queue = queue.Queue(depth)
    unwanted = threading.Event()

    def hand_over(kind: str, value: object) -> bool:
        while not unwanted.is_set():
            try:
                ready.put((kind, value), timeout=POLL)
                return True
            except queue.Full:
                continue
        return False

    def make() -> None:
        try:
            iterator = iter(items())
            try:
                wanted = all(hand_over("item", item) for item in iterator)
            finally:
                if hasattr(iterator, "close"):
                    iterator.close()
            if wanted:
                hand_over("end", None)
        except BaseException as error:
            hand_over("error", error)

    thread = threading.Thread(target=make, daemon=True, name="ahead")
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        unwanted.set()
        if stop:
            stop()
        thread.join(PATIENCE)
