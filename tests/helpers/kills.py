"""A real process that kills itself before its n-th file operation: every line between two renames gets its turn."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.truncate")


def killed_at(count: int, folder: Path, work: Callable[[], object]) -> int:
    """Run work in a forked process, kill -9 before its count-th file operation below folder; its exit status."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        left = count

        def hook(event: str, arguments: tuple) -> None:
            nonlocal left
            if event in EVENTS and arguments and str(arguments[0]).startswith(str(folder)):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        work()
        os._exit(0)
    finally:
        os._exit(70)


def kill_before(event: str, pattern: str, count: int) -> None:
    """From now on: kill -9 this process before its count-th such operation on a path that matches the pattern."""
    left = count

    def hook(found: str, arguments: tuple) -> None:
        nonlocal left
        if found == event and arguments and fnmatch(str(arguments[0]), pattern):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
