from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from stts.data import VideoError, VideoQADataset, read_video, write_video
from stts.data.video import read as video_module
from stts.data.video.guarded import GuardedReader
from stts.data.video.read import Clip, probe_video

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be forked")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """clip.mp4: 2 s at 8 fps; hangs.mp4: a pipe nobody writes to, on which open(2) waits for ever."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "clip.mp4", (np.full((32, 48, 3), 10 * i, np.uint8) for i in range(16)), fps=8)
    os.mkfifo(folder / "hangs.mp4")
    return folder


@pytest.fixture
def reader(monkeypatch):
    """A reader that does not look before it opens, so that a pipe reaches the decoder."""
    monkeypatch.setattr(video_module, "check_file", lambda path: None)
    reader = GuardedReader(60)
    yield reader
    reader.close()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False


def test_it_reads_what_read_video_reads(folder, reader):
    for settings in ({"size": 16}, {"start": 0.5, "end": 1.0, "max_fps": 8.0}):
        mine, plain = (read(folder / "clip.mp4", 6, **settings) for read in (reader, read_video))
        assert np.array_equal(mine.frames, plain.frames)
        assert np.array_equal(mine.timestamps, plain.timestamps)


def test_errors_are_those_of_read_video(folder, reader):
    (folder / "text.mp4").write_text("no video")
    with pytest.raises(VideoError, match=r"text\.mp4: is not a video"):
        reader(folder / "text.mp4", 4)
    with pytest.raises(ValueError, match="max_fps is -1") as error:
        reader(folder / "clip.mp4", 4, max_fps=-1)
    assert not isinstance(error.value, VideoError)


def test_what_the_process_closes_is_closed_for_the_other_end(folder, reader):
    here, there = socket.socketpair()
    reader(folder / "clip.mp4", 2)
    here.close()
    there.settimeout(5)  # the helper lives on, and has the same files open
    assert there.recv(1) == b""


def test_a_read_that_hangs_is_cut_off_and_the_next_one_works(folder, reader):
    assert len(reader(folder / "clip.mp4", 4).frames) == 4
    helper = reader.helper[1]
    reader.timeout = 0.5
    with pytest.raises(VideoError, match=r"hangs\.mp4: reading it took longer than 0\.5 s"):
        reader(folder / "hangs.mp4", 4)
    assert not alive(helper)
    reader.timeout = 60
    assert len(reader(folder / "clip.mp4", 4).frames) == 4
    with pytest.raises(VideoError, match=r"hangs\.mp4: reading it took longer than 0\.5 s"):
        reader(folder / "hangs.mp4", 4)  # it is not tried again: that would take a minute


def test_a_decoder_that_crashes_costs_one_video(folder):
    def read(path, frames):
        if path.name == "crash.mp4":
            os.kill(os.getpid(), signal.SIGKILL)
        if path.name == "odd.mp4":
            raise MemoryError("too large")
        return Clip(np.zeros((frames, 2, 2, 3), np.uint8), np.arange(frames) / 2)

    reader = GuardedReader(5, read)
    with pytest.raises(VideoError, match=r"crash\.mp4: the decoder crashed on it"):
        reader(folder / "crash.mp4", 3)
    with pytest.raises(VideoError, match=r"odd\.mp4: MemoryError: too large"):
        reader(folder / "odd.mp4", 3)
    assert reader(folder / "fine.mp4", 3).frames.shape == (3, 2, 2, 3)
    reader.close()


def test_a_forked_process_has_a_helper_of_its_own(folder, reader):
    reader(folder / "clip.mp4", 4)
    mine = reader.helper
    loader = torch.utils.data.DataLoader(
        [0, 1],
        num_workers=1,
        batch_size=None,
        collate_fn=lambda _: len(reader(folder / "clip.mp4", 5).frames),
    )
    assert list(loader) == [5, 5]
    assert reader.helper == mine
    assert alive(mine[1])
    assert len(reader(folder / "clip.mp4", 4).frames) == 4
    copy = pickle.loads(pickle.dumps(reader))
    assert copy.helper is None
    assert copy.timeout == 60


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
def test_a_helper_does_not_outlive_a_process_that_is_killed(folder):
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()

    def read_and_wait() -> None:
        reader = GuardedReader(60)
        reader(folder / "clip.mp4", 2)
        there.send(reader.helper[1])
        time.sleep(600)

    process = context.Process(target=read_and_wait)
    process.start()
    helper = here.recv()
    assert alive(helper)
    process.kill()
    process.join()
    deadline = time.monotonic() + 300
    while alive(helper) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(helper)


def test_the_timeout_must_make_sense():
    for timeout in (0, -1):
        with pytest.raises(ValueError, match="decode_timeout is"):
            GuardedReader(timeout)


def test_a_probe_measures_what_would_be_read(folder, reader):
    probe = GuardedReader(5, probe_video)
    for settings in ({"size": 16}, {"start": 0.5, "end": 1.0, "max_fps": 8.0}, {"sampling": "transformers"}):
        found, clip = (read(folder / "clip.mp4", 6, **settings) for read in (probe, read_video))
        assert np.array_equal(found.timestamps, clip.timestamps)
        assert len(found.frames) == len(clip.frames)
    probe.close()


def test_a_dataset_names_the_video_that_hangs(folder, monkeypatch):
    monkeypatch.setattr(video_module, "check_file", lambda path: None)
    turns = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A cat."}]
    rows = [{"id": name, "video": f"{name}.mp4", "messages": turns} for name in ("hangs", "clip")]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    class Processor:
        image_size = 16

        def __call__(self, messages, clip):
            return {"frames": len(clip.frames)}

    data = VideoQADataset(folder / "rows.jsonl", None, Processor(), 4, decode_timeout=0.5)
    with pytest.raises(VideoError, match=r"hangs\.mp4: reading it took longer than 0\.5 s"):
        data[0]
    data.read.timeout = 60
    assert data[1] == {"frames": 4, "id": "clip"}
    data.read.close()
