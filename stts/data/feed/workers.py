"""The processes that read examples for this one, and end when it lets go of them or is gone itself.

They ignore the signals that end a job, since the last step needs its batch; so these cannot end them. Each holds the
far end of a line to this process instead, and goes when the near end is closed: at the latest by the kernel, for a
process that was killed. One that is too stuck to notice is killed.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import Pipe, active_children
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from typing import Any

from torch.utils.data import DataLoader

PATIENCE = 3.0
"""Seconds to wait for processes that were let go of, before they are killed."""

_ENDING = threading.Lock()
"""One thread at a time closes a line and waits for its workers."""

SETTLING = 0.5
"""Seconds in which a worker whose line broke has ended."""


class Line:
    """Ties the workers of one loader to the process that made it."""

    def __init__(self, then: Callable[[int], None] | None = None) -> None:
        """then: what else a worker calls when it begins."""
        self.there, self.here = Pipe(duplex=False)
        self.then = then
        self.workers: list[Any] = []

    def begin(self, worker: int) -> None:
        """In a worker: end with the process that made it. A DataLoader's worker_init_fn."""
        self.here.close()  # its copy of the near end
        threading.Thread(target=_end_with, args=(self.there,), daemon=True).start()
        if self.then:
            self.then(worker)

    @contextmanager
    def items(self, loader: DataLoader) -> Iterator[Iterator[Any]]:
        """What the loader gives; its workers are gone on leaving, and when this process ends without leaving."""
        before = set(active_children())
        items = iter(loader)
        self.workers = [child for child in active_children() if child not in before]
        end = Finalize(None, self.end, exitpriority=1)  # before multiprocessing waits for its children
        atexit.register(end)  # and before torch does
        try:
            yield self._watched(items)
        finally:
            end()
            atexit.unregister(end)

    def _watched(self, items: Iterator[Any]) -> Iterator[Any]:
        """The items. Raises RuntimeError for a worker that is gone, whatever its silence looks like from here."""
        try:
            yield from items
        except (OSError, EOFError, RuntimeError) as error:
            for worker in self.workers:
                worker.join(SETTLING)
            ended = [worker.exitcode for worker in self.workers if worker.exitcode is not None]
            if not ended:
                raise
            raise RuntimeError(
                f"a process that reads the data ended (exit status {ended[0]}; negative: a signal, -9 where memory "
                "ran out): read with fewer train.num_workers, or with 0 to see the cause"
            ) from error

    def end(self) -> None:
        """End the workers, whatever they do at the moment. Any thread may, also several at once."""
        with _ENDING:
            self.here.close()
            deadline = time.monotonic() + PATIENCE
            for worker in self.workers:
                worker.join(max(deadline - time.monotonic(), 0))
            with suppress(RuntimeError):  # torch tells of workers that were killed
                for worker in self.workers:
                    worker.kill()
                    worker.join(PATIENCE)


def _end_with(line: Connection) -> None:
    with suppress(EOFError, OSError):
        line.recv_bytes()
    os._exit(0)
