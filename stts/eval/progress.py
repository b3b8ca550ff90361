"""How far an evaluation is and how fast it goes: a bar on a terminal, a line a minute in a log."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

logger = logging.getLogger(__name__)

LOG_EVERY = 60.0
"""Seconds between two lines where there is no terminal."""


class EvalProgress:
    """Counts what a process has done since it began.

    recorded: questions that need not be asked again; they fill the bar but are no speed.
    """

    def __init__(self, name: str, total: int, recorded: int, bar: Progress | None, log: bool) -> None:
        self.name, self.total, self.done = name, total, recorded
        self.asked = self.frames = 0
        self.started = self.logged = time.monotonic()
        self.bar, self.log = bar, log
        self.task: TaskID | None = None
        if bar is not None:
            self.task = bar.add_task(name, total=total, completed=recorded, speed="")

    def encoded(self, frames: int) -> None:
        """A video of so many frames was read and encoded."""
        self.frames += frames

    def answered(self, questions: int) -> None:
        """So many questions were answered."""
        self.done += questions
        self.asked += questions
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, speed=self.speed())
        if self.log and time.monotonic() - self.logged >= LOG_EVERY:
            self.logged = time.monotonic()
            logger.info(
                "%s: %d of %d questions, %s, eta %s",
                *(self.name, self.done, self.total, self.speed(), timedelta(seconds=round(self.left()))),
            )

    def speed(self) -> str:
        seconds = max(time.monotonic() - self.started, 1e-9)
        return f"{self.asked / seconds:.1f} questions/s, {self.frames / seconds:.0f} frames/s"

    def left(self) -> float:
        """Seconds until the last question, at the mean speed so far."""
        return (time.monotonic() - self.started) / max(self.asked, 1) * (self.total - self.done)


@contextmanager
def show_progress(name: str, total: int, recorded: int, shown: bool = True) -> Iterator[EvalProgress]:
    """An EvalProgress that shows itself, or only counts."""
    console = Console()
    if not shown or not console.is_terminal:
        yield EvalProgress(name, total, recorded, None, log=shown)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    ending = (TextColumn("eta"), TimeRemainingColumn(), TextColumn("{task.fields[speed]}"))
    with Progress(*columns, *ending, console=console) as bar:
        yield EvalProgress(name, total, recorded, bar, log=False)
