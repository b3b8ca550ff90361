"""A lock on a run's folder: one process trains in it at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

NAME = "run.lock"
PATIENCE = 3.0
"""Seconds in which what a killed process has started may end."""
logger = logging.getLogger(__name__)


@contextmanager
def only_run(output_dir: Path) -> Iterator[None]:
    """Hold a run's folder, which must exist, while the context lasts.

    Raises ValueError, naming the folder, when another process holds it; where the file system knows no locks there is
    a warning instead. The system frees the lock when the process ends, even by kill -9. The file stays behind; when
    no process holds it, it means nothing.
    """
    lock = FileLock(output_dir / NAME)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise ValueError(
            f"output_dir is {output_dir}, in which another process is training; wait until it ends, stop it, or "
            "give another output_dir"
        ) from None
    except NotImplementedError:
        logger.warning("%s is on a file system without locks: start only one run in it", output_dir)
    try:
        yield
    finally:
        lock.release()
