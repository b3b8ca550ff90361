"""Reading videos in a helper process, so that a file that hangs or crashes the decoder costs one example.

Decoding is C code: no exception and no thread can stop it while it waits for a dead disk or loops in a damaged
file. A process can be ended. Each process that reads (a data loader's worker, or the trainer) forks one helper when
it first reads, hands it one file after another, and replaces it when it had to be ended.
"""

from __future__ import annotations

import ctypes
import os
import signal
import stat
import sys
import time
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .decode import VideoError
from .read import Clip, read_video

PR_SET_PDEATHSIG = 1
PATIENCE = 1.0
"""Seconds to wait for a helper that was killed; one that waits for a dead disk goes when the disk answers."""


class GuardedReader:
    """read_video with a limit on the time a file may take.

    timeout: seconds; read: another function from path and frames to a Clip. A file that took longer, or on which the
    helper died, is not tried again by this process. Where processes cannot be forked (Windows) it is read as usual.
    """

    def __init__(self, timeout: float, read: Callable[..., Clip] = read_video) -> None:
        # the process that forked the helper, the helper's id, the line to it
        self.helper: tuple[int, int, Connection] | None = None
        if not timeout > 0:
            raise ValueError(f"decode_timeout is {timeout}, must be above 0 seconds, or null for no limit")
        self.timeout, self.read = timeout, read
        self.failed: dict[str, str] = {}

    def __call__(self, path: str | os.PathLike[str], frames: int, **settings: Any) -> Clip:
        """As read_video. Raises VideoError, naming the file, also when it takes too long or kills the decoder."""
        if not hasattr(os, "fork"):
            return self.read(path, frames, **settings)
        if str(path) in self.failed:
            raise VideoError(self.failed[str(path)])
        try:
            return self._ask(Path(path), frames, settings)
        except (EOFError, ConnectionError):
            return self._give_up(path, "the decoder crashed on it")

    def close(self) -> None:
        """End the helper; the next read forks another."""
        helper, self.helper = self.helper, None
        if helper is None:
            return
        owner, pid, line = helper
        line.close()
        if owner != os.getpid():
            return
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while not os.waitpid(pid, os.WNOHANG)[0] and time.monotonic() < deadline:
            time.sleep(0.005)

    def __del__(self) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"failed": {}, "helper": None}  # for a worker that is spawned

    def _ask(self, path: Path, frames: int, settings: dict[str, Any]) -> Clip:
        line = self._line()
        line.send((path, frames, settings))
        if not line.poll(self.timeout):
            return self._give_up(path, f"reading it took longer than {self.timeout:g} s")
        kind, value = line.recv()
        if kind is not Clip:
            raise kind(value)
        shape, timestamps = value
        pixels = np.empty(shape, dtype=np.uint8)
        line.recv_bytes_into(memoryview(pixels.reshape(-1)))
        return Clip(pixels, timestamps)

    def _give_up(self, path: str | os.PathLike[str], reason: str) -> Clip:
        self.close()
        self.failed[str(path)] = f"{path}: {reason}"
        raise VideoError(self.failed[str(path)])

    def _line(self) -> Connection:
        """The line to this process's own helper."""
        if self.helper and self.helper[0] != os.getpid():
            self.close()  # forked after its parent had read: that helper is the parent's
        if not self.helper:
            here, there = Pipe()
            parent = os.getpid()
            pid = os.fork()
            if not pid:
                here.close()
                _serve(self.read, there, parent)
            there.close()
            self.helper = parent, pid, here
        return self.helper[2]


def _let_go_of_sockets(but: int) -> None:
    """Of those of the parent: what it closes must be closed for the other end too, which would else wait for ever.

    Their numbers stay taken: objects that the helper has of them may close these at any time.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in map(int, os.listdir("/dev/fd")):
        try:
            socket = stat.S_ISSOCK(os.fstat(number).st_mode)
        except OSError:
            continue  # that of the listing
        if socket and number > 2 and number != but:
            os.dup2(nothing, number)


def _serve(read: Callable[..., Clip], line: Connection, parent: int) -> None:
    """The helper: read what is asked for until nobody asks any more. Never returns."""
    try:
        for signum in (signal.SIGINT, signal.SIGTERM):  # meant for the parent, which then ends its helper
            signal.signal(signum, signal.SIG_IGN)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        _let_go_of_sockets(line.fileno())
        torch.set_num_threads(1)  # threads of the parent's pool do not survive a fork
        while os.getppid() == parent:
            path, frames, settings = line.recv()
            try:
                clip = read(path, frames, **settings)
            except Exception as error:
                named = isinstance(error, ValueError)
                text = str(error) if named else f"{path}: {type(error).__name__}: {error}"
                line.send((ValueError if named and not isinstance(error, VideoError) else VideoError, text))
                continue
            line.send((Clip, (clip.frames.shape, clip.timestamps)))
            line.send_bytes(memoryview(clip.frames.reshape(-1)))
    except (EOFError, OSError):
        pass  # the parent is gone
    finally:
        os._exit(0)
