"""Making the next results while the last one is being used: training's batches, and the videos of an evaluation."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from typing import Generic, TypeVar

In, Out = TypeVar("In"), TypeVar("Out")

PATIENCE = 10.0
"""Seconds to wait for results that are being made when none is wanted any more: a process told to stop must end."""


def prefetch(
    function: Callable[[In], Out],
    items: Iterable[In],
    workers: int = 1,
    depth: int | None = None,
    stop: Callable[[], None] | None = None,
) -> Iterator[Out]:
    """map(function, items), in order, made by threads that run at most `depth` results ahead.

    workers: threads. Each takes the next item, one after another, and calls function with it, all at the same time.
    depth: results that are made or being made beyond the one that was asked for last; None: one a thread.
    stop: called when no more results are wanted, to end what a thread may be waiting for.

    An exception, of function or of items, comes where its result would have come, and is the last. Closing the
    iterator ends the threads and closes items; one that still hangs after PATIENCE seconds is left behind, and does
    not keep the process from ending.
    """
    line = _Line(function, items, depth or workers)
    threads = [threading.Thread(target=line.work, daemon=True, name="prefetch") for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        while (result := line.results.get()) is not None:
            line.room.release()
            yield result.result()
    finally:
        line.ended = True
        line.room.release(workers)  # whoever waits for room looks whether it has ended
        if stop:
            stop()
        deadline = time.monotonic() + PATIENCE
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0))


class _Line(Generic[In, Out]):
    """What the threads share: the items still to take, and the results in the order of their items."""

    def __init__(self, function: Callable[[In], Out], items: Iterable[In], depth: int) -> None:
        self.function, self.items = function, iter(items)
        self.taking = threading.Lock()
        self.room = threading.Semaphore(depth)
        self.results: queue.SimpleQueue[Future[Out] | None] = queue.SimpleQueue()
        """None: there are no more."""
        self.ended = False

    def work(self) -> None:
        """Make results until no more are there or wanted, then close items."""
        while self._make_one():
            pass
        with self.taking, suppress(Exception):  # nobody is there any more to be told
            if hasattr(self.items, "close"):
                self.items.close()

    def _make_one(self) -> bool:
        """Make the next result; False when there is none to make."""
        self.room.acquire()
        result: Future[Out] = Future()
        with self.taking:
            if self.ended:
                return False
            try:
                item = next(self.items)
            except BaseException as error:
                self.ended = True
                result.set_exception(error)
                self.results.put(None if isinstance(error, StopIteration) else result)
                return False
            self.results.put(result)
        try:
            result.set_result(self.function(item))
        except BaseException as error:
            result.set_exception(error)
        return True
