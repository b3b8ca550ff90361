"""Ctrl-C and SIGTERM: finish the step, save, then stop."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):  # noqa: N818 (nothing went wrong)
    """Training was told to stop, and has saved a checkpoint to go on from."""

    def __init__(self, signum: int, checkpoint: Path) -> None:
        super().__init__(f"stopped; saved {checkpoint}. Run the same command again to go on.")
        self.signum = signum
        self.checkpoint = checkpoint

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, as shells expect; 0 after SIGTERM, by which schedulers end a job in good order."""
        return 130 if self.signum == signal.SIGINT else 0


class StopSignals:
    """While active, the first SIGINT or SIGTERM is only noted in `received`; a second interrupts at once."""

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python cannot take signals
            self._before = {signum: signal.signal(signum, self._note) for signum in SIGNALS}
        return self

    def __exit__(self, *exc_info: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = signum


def end_on_sigterm() -> None:
    """Until training begins there is nothing to save: SIGTERM ends the process at once, in good order (status 0)."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(0))


def leave_signals_to_the_parent(worker: int) -> None:
    """For a data loader's processes: Ctrl-C reaches them too, and the last step needs its batch."""
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
