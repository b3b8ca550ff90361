"""The visitors of the page: each has a private folder, one clip at a time, and work that ends with the visit."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import RawValue
from pathlib import Path
from typing import Any

from ..data import Clip, VideoError, read_video
from ..data.processors.base import Processor
from ..data.video.guarded import GuardedReader
from ..data.video.read import open_reader
from ..viz.kept_video import KeptVideo, Shown, read_shown
from .config import AppConfig
from .jobs import Job, T

REMEMBERED = 24
"""Settings whose masks are kept of a clip, so that going back to them is free."""


class Reader:
    """Reads clips in a process of its own, which may hang or crash, counts their frames and can be stopped.

    Raises VideoError as read_video does, and for a clip that lasts longer than max_seconds.
    """

    def __init__(self, timeout: float, max_seconds: float) -> None:
        self.lock, self.max_seconds = threading.Lock(), max_seconds
        self.frames_read = RawValue("i", 0)  # shared with the process that reads
        self.guarded = GuardedReader(timeout, self._read)
        self.thread = ThreadPoolExecutor(1)  # the process ends with the thread that began it: not a job's

    def __call__(self, path: Path, frames: int, **settings: Any) -> Clip:
        self.guarded.failed.clear()  # a visitor may try again
        return self.thread.submit(self.guarded, path, frames, **settings).result()

    def _read(self, path: Path, frames: int, **settings: Any) -> Clip:
        lasts = (
            open_reader(path, "auto").duration if frames == 1 else 0.0
        )  # whose one frame says the shape: comes first
        if lasts > self.max_seconds:
            raise VideoError(
                f"{path}: lasts {lasts:.1f} s, more than the {self.max_seconds:g} s that are read (max_seconds)"
            )
        return read_video(path, frames, on_frame=self._count, **settings)

    def _count(self) -> None:
        self.frames_read.value += 1

    def stop(self) -> None:
        """End the process in the middle of a file; who waits for it gets a VideoError."""
        if helper := self.guarded.helper:
            os.kill(helper[1], signal.SIGKILL)

    def end(self) -> None:
        """Stop, for good."""
        self.stop()
        self.thread.submit(self.guarded.close)
        self.thread.shutdown(wait=False)


class Visit:
    """One visitor, in one browser tab."""

    def __init__(self, folder: Path, config: AppConfig) -> None:
        self.folder = folder
        self.reader = Reader(config.decode_timeout, config.max_seconds)
        self.jobs: dict[str, Job] = {}
        self.own: Path | None = None
        """The clip that was uploaded last."""
        self.taken = 0
        self.drawing: tuple | None = None
        """What is drawn, or was last: the values of all controls."""
        self.refused: tuple | None = None
        """What was cancelled, until something else is asked for."""
        self.suggested: str | None = None
        """The clip for which questions were suggested last."""
        self._shown: tuple[tuple, Shown] | None = None
        self._seen: dict[tuple, KeptVideo] = {}

    def take(self, upload: Path) -> Path:
        """Move an uploaded file into the visit's folder, in place of the one before."""
        if self.own is not None:
            self.own.unlink(missing_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.own = Path(shutil.move(upload, self.folder / upload.name))
        self.taken += 1
        self._shown = None
        self._seen.clear()
        return self.own

    def start(self, kind: str, work: Callable[[Job], T]) -> Job[T]:
        """Begin some work; work of that kind that is under way is stopped."""
        if kind in self.jobs:
            self.jobs[kind].stop()
        self.jobs[kind] = job = Job(work)
        return job

    def drop(self, kind: str) -> None:
        """Stop work of that kind, of which nobody is to hear again."""
        if job := self.jobs.pop(kind, None):
            job.stop()

    def stop(self) -> None:
        """Stop all work that is under way."""
        for job in list(self.jobs.values()):
            job.stop()

    def shown(self, path: Path, processor: Processor, frames: int, job: Job) -> Shown:
        """A clip as a model takes it, read unless it was the last one."""
        key = (path, processor.image_size, frames)
        job.hold(self.reader.lock, "waiting")
        try:
            if self._shown is None or self._shown[0] != key:
                self.reader.frames_read.value = 0
                job.tell(
                    "reading the clip", lambda: min(1.0, self.reader.frames_read.value / (2 * frames + 1))
                )
                job.on_stop = self.reader.stop
                self._shown = key, read_shown(processor, path, frames, read=self.reader)
        except VideoError:
            job.tell("")  # of a reader that was stopped nobody wants to know what it says
            raise
        finally:
            job.on_stop = None
            self.reader.lock.release()
        job.tell("looking")
        return self._shown[1]

    def seen(self, key: tuple, look: Callable[[], KeptVideo]) -> KeptVideo:
        """What look returns, remembered under a key."""
        if key not in self._seen:
            while len(self._seen) >= REMEMBERED:
                self._seen.pop(next(iter(self._seen)))
            self._seen[key] = look()
        return self._seen[key]

    def end(self) -> None:
        """Stop everything and leave nothing behind."""
        self.stop()
        self.reader.end()
        shutil.rmtree(self.folder, ignore_errors=True)


class Visits:
    """All visitors by the name of their session, below one private folder."""

    def __init__(self, config: AppConfig) -> None:
        self.config, self.lock = config, threading.Lock()
        self.root = Path(tempfile.mkdtemp(prefix="stts-app-"))  # for this user's eyes only
        self.uploads = self.root / "uploads"
        self.uploads.mkdir(mode=0o700)
        self._of: dict[str, Visit] = {}

    def of(self, session: str) -> Visit:
        """The visit of a session, which begins with this."""
        with self.lock:
            if session not in self._of:
                self._of[session] = Visit(self.root / f"visit-{os.urandom(8).hex()}", self.config)
            return self._of[session]

    def check(self, upload: str) -> Path:
        """The file that was uploaded. Raises ValueError for one that lies elsewhere."""
        path = Path(upload).resolve()
        if not path.is_relative_to(self.uploads.resolve()) or not path.is_file():
            raise ValueError("this is no file that was uploaded here")
        return path

    def end(self, session: str) -> None:
        """The visitor has left."""
        with self.lock:
            visit = self._of.pop(session, None)
        if visit is not None:
            visit.end()

    def close(self) -> None:
        """All visitors have left: remove the folder."""
        for session in list(self._of):
            self.end(session)
        shutil.rmtree(self.root, ignore_errors=True)
