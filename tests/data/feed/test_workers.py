"""Real training processes with real workers: whatever goes wrong, and whatever is ignored, they end."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from itertools import islice
from pathlib import Path

import pytest
import torch

from stts.data.datasets import VideoQADataset
from stts.data.feed.account import BadDataError
from stts.data.feed.collator import Collator
from stts.data.feed.feed import Feed, FeedSpec
from stts.data.processors.molmo2 import VideoProcessor
from stts.train.signals import leave_signals_to_the_parent

FAR = 60
"""Seconds no test waits, unless something hangs."""


@pytest.fixture(scope="module")
def processor(tiny_folder):
    return VideoProcessor.from_pretrained(tiny_folder)


def write_rows(path: Path, number: int, text: str = "What?") -> Path:
    rows = ({"id": f"r{i}", "video": None, "question": text, "answer": "red"} for i in range(number))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def feed(data, **spec) -> Feed:
    spec = {"batch_size": 2, "num_workers": 2} | spec
    return Feed(data, Collator(0), FeedSpec(**spec), worker_init=leave_signals_to_the_parent)


def gone(workers) -> bool:
    """Whether all of them have ended, and there were some."""
    for worker in workers:
        worker.join(FAR)
    return bool(workers) and not any(worker.is_alive() for worker in workers)


class Texts(torch.utils.data.Dataset):
    """A few tokens each; `odd` is called where the one of that number is read."""

    max_bad_fraction = 1.0

    def __init__(self, odd, number=3) -> None:
        self.odd, self.number = odd, number
        self.reached = multiprocessing.Event()

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index):
        if index == self.number:
            self.reached.set()
            self.odd()
        ids = torch.arange(3) + index
        return {"id": f"t{index}", "input_ids": ids, "labels": ids, "mm_token_type_ids": 0 * ids}

    def name_of(self, index):
        return {}[index]  # as broken as its row


def fail() -> None:
    raise TypeError("TextEncodeInput must be Union[TextInputSequence, ...]")


def wait_for_ever() -> None:
    time.sleep(10**6)


def stand_still() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)  # no thread of it runs any more


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_nobody_foresaw_costs_its_example_and_is_told(tmp_path, workers, caplog):
    log = tmp_path / "left_out.jsonl"
    batches = feed(Texts(fail), num_workers=workers, log=log).batches()
    seen = {name for batch in islice(batches, 7) for name in batch["ids"]}
    batches.close()
    assert seen == {f"t{i}" for i in range(8)} - {"t3"}
    (row,) = map(json.loads, log.read_text().splitlines())
    assert (row["example"], row["what"]) == ("example 3", "unreadable")
    assert row["reason"].startswith("TypeError: TextEncodeInput must be")
    assert "test_workers.py:" in row["reason"]
    assert "unreadable: example 3: TypeError" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_over_the_bound_ends_the_run_with_its_cause_and_the_workers(workers):
    data = Texts(fail)
    data.max_bad_fraction = 0.0
    made = feed(data, num_workers=workers)
    with pytest.raises(
        BadDataError, match=r"1 of 8 examples cannot be read(?s:.*)example 3: TypeError: TextEnc"
    ):
        list(islice(made.batches(), 9))
    assert not workers or gone(made.line.workers)


@pytest.mark.parametrize("odd", [wait_for_ever, stand_still])
def test_workers_end_with_the_loop_whatever_they_do(odd, monkeypatch):
    monkeypatch.setattr("stts.data.feed.workers.PATIENCE", 0.5)
    data = Texts(odd)
    made = feed(data)
    data.number = made.order[6]  # when what was read before has long arrived
    batches = made.batches()
    next(batches)
    assert data.reached.wait(FAR)
    batches.close()
    assert gone(made.line.workers)
    assert "ahead" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("odd", [lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: os._exit(3), sys.exit])
def test_a_worker_that_is_gone_is_called_so(odd):
    made = feed(Texts(odd))
    with pytest.raises(RuntimeError, match="a process that reads the data ended"):
        list(islice(made.batches(), 9))
    assert gone(made.line.workers)


def test_a_tokenizer_that_fails_costs_its_example(processor, tmp_path, monkeypatch):
    path = write_rows(tmp_path / "rows.jsonl", 6)
    with path.open("a") as file:
        file.write(json.dumps({"id": "odd", "video": None, "question": "x", "answer": "red"}) + "\n")
    data = VideoQADataset(path, None, processor, 4, max_bad_fraction=0.2)
    tensors = processor.prompt_tensors

    def strict(messages, *rest):
        if messages[0]["content"] == "x":
            raise TypeError("not a text")
        return tensors(messages, *rest)

    monkeypatch.setattr(processor, "prompt_tensors", strict)
    made = feed(data)
    batches = made.batches()
    assert {name for batch in islice(batches, 6) for name in batch["ids"]} == {f"r{i}" for i in range(6)}
    assert list(made.bad) == [f"{path}:7 (id 'odd')"]
    batches.close()
    assert gone(made.line.workers)


@pytest.mark.parametrize("change", ["cut", "other", "gone"])
def test_annotations_that_change_meanwhile_end_the_run_with_their_name(processor, tmp_path, change):
    path = write_rows(tmp_path / "rows.jsonl", 300)
    made = feed(VideoQADataset(path, None, processor, 4, max_bad_fraction=0.01))
    batches = made.batches()
    next(batches)
    if change == "gone":
        path.unlink()
    else:
        write_rows(path, 300 if change == "other" else 5, "What now?")
    with pytest.raises(
        BadDataError, match=r"4 of 300 examples cannot be read, data\.max_bad_fraction allows 3"
    ) as e:
        list(islice(batches, 300))
    assert str(path) in str(e.value)
    assert gone(made.line.workers)


def own_process(work) -> int:
    """Exit status of a process of its own that does this; it must end by itself."""
    context = multiprocessing.get_context("fork")
    process = context.Process(target=work)
    process.start()
    process.join(FAR)
    try:
        assert not process.is_alive(), "it hangs"
        return process.exitcode
    finally:
        process.kill()
        process.join()


def test_a_process_ends_though_nobody_closed_the_feed(tmp_path):
    """Nor is it collected: the traceback of an error that nobody handles holds on to it."""

    def work():
        keep = feed(Texts(lambda: None)).batches()
        next(keep)
        globals()["kept"] = keep
        raise SystemExit(3)

    assert own_process(work) == 3


def test_workers_go_with_a_process_that_is_killed(tmp_path):
    def work():
        made = feed(Texts(wait_for_ever, number=None))
        next(made.batches())
        (tmp_path / "pids").write_text(" ".join(str(worker.pid) for worker in made.line.workers))
        os.kill(os.getpid(), signal.SIGKILL)

    assert own_process(work) == -signal.SIGKILL
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    deadline = time.monotonic() + FAR
    while time.monotonic() < deadline and any(map(runs, pids)):
        time.sleep(0.05)
    assert len(pids) == 2
    assert not any(map(runs, pids))


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_signal_to_all_leaves_the_workers_at_work():
    """As Ctrl-C, `timeout` and schedulers send it: the step at hand still needs its batch."""
    made = feed(Texts(lambda: None))
    batches = made.batches()
    next(batches)
    for worker in made.line.workers:
        for signum in (signal.SIGINT, signal.SIGTERM):
            os.kill(worker.pid, signum)
    assert len(list(islice(batches, 30))) == 30
    batches.close()
    assert gone(made.line.workers)
