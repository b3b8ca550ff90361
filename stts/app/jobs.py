"""Work in a thread of its own: it tells how far it is, and it can be stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
TICK = 0.1
"""Seconds between two looks at how far the work is."""


class StoppedError(Exception):
    """Raised within work that nobody waits for any more."""


class Job(Generic[T]):
    """One piece of work, which gets the job itself, to tell what it does and to learn that it is to stop.

    Iterating over it waits, and gives (what it does, how much of that is done, 0 to 1) until it is over or stopped.
    """

    def __init__(self, work: Callable[[Job], T]) -> None:
        self.doing = "starting"
        self.share: float | Callable[[], float] = 0.0
        self.stopped = threading.Event()
        self.on_stop: Callable[[], object] | None = None
        """What else stops it: called once, by whoever stops it."""
        self._value: T | None = None
        self._error: BaseException | None = None
        self._over = threading.Event()
        threading.Thread(target=self._run, args=(work,), daemon=True).start()

    def _run(self, work: Callable[[Job], T]) -> None:
        try:
            self._value = work(self)
        except BaseException as error:
            self._error = error
        finally:
            self._over.set()

    def tell(self, doing: str, share: float | Callable[[], float] = 0.0) -> None:
        """Say how far it is, or who knows. Raises StoppedError when the work is to stop."""
        if self.stopped.is_set():
            raise StoppedError
        self.doing, self.share = doing, share

    def hold(self, lock: threading.Lock, doing: str) -> None:
        """Acquire a lock, saying what it waits for. Raises StoppedError when the work is to stop first."""
        while not lock.acquire(timeout=TICK):
            self.tell(doing)

    def stop(self) -> None:
        """Have it stop where it next tells how far it is; whoever waits for it need not wait any longer."""
        if not self.stopped.is_set():
            self.stopped.set()
            if self.on_stop is not None:
                self.on_stop()

    def __iter__(self) -> Iterator[tuple[str, float]]:
        while not self.stopped.is_set() and not self._over.wait(TICK):
            yield self.doing, self.share() if callable(self.share) else self.share

    def result(self) -> T:
        """What the work returned. Raises what it raised, and StoppedError where it was stopped."""
        if self.stopped.is_set():
            raise StoppedError
        self._over.wait()
        if self._error is not None:
            raise self._error
        return self._value
