"""Results made ahead by threads: in order, no further than said, and gone when nobody wants them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

import stts.data.prefetch as prefetching
from stts.data.prefetch import prefetch


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


def threads_left() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "prefetch"]


def test_results_keep_their_order_and_threads_overlap() -> None:
    meet = threading.Barrier(3, timeout=300)  # three at a time, or it breaks

    def work(number: int) -> int:
        meet.wait()
        time.sleep(0.01 * (number % 3))
        return number * number

    assert list(prefetch(work, range(9), workers=3)) == [number * number for number in range(9)]
    assert not threads_left()


@pytest.mark.parametrize(("workers", "depth"), [(1, 3), (2, None), (2, 5), (3, 1)])
def test_it_runs_as_far_ahead_as_it_may_and_no_further(workers: int, depth: int | None) -> None:
    begun: list[int] = []
    results = prefetch(lambda number: begun.append(number) or number, range(100), workers, depth)
    for asked in range(3):
        assert next(results) == asked
        most = asked + 1 + (depth or workers)
        wait_until(lambda most=most: len(begun) == most)
        time.sleep(0.02)
        assert len(begun) == most
    results.close()
    assert not threads_left()
    assert len(begun) == most


@pytest.mark.parametrize("workers", [1, 3])
def test_errors_come_in_their_place(workers: int) -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise RuntimeError("after 4")

    results = prefetch(lambda number: number, items(), workers)
    assert [next(results) for _ in range(5)] == list(range(5))
    with pytest.raises(RuntimeError, match="after 4"):
        next(results)
    results = prefetch(lambda number: 1 // number, [1, 1, 0, 1], workers)
    assert [next(results), next(results)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert not list(results)
    assert not threads_left()
    assert list(prefetch(str, [])) == []


def test_items_are_taken_and_closed_where_they_are_made() -> None:
    where: list[str] = []

    def items() -> Iterator[int]:
        where.append(threading.current_thread().name)
        try:
            yield from range(1000)
        finally:
            where.append(threading.current_thread().name)

    results = prefetch(str, items(), depth=2)
    assert next(results) == "0"
    results.close()
    assert where == ["prefetch"] * 2


def test_what_hangs_is_told_to_stop_and_left_behind_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    hang = threading.Event()
    waiting = threading.Barrier(3, timeout=300)

    def work(number: int) -> int:
        if number:
            waiting.wait()
            hang.wait()
        return number

    def begin(stop: Callable[[], None]) -> Iterator[int]:
        hang.clear()
        results = prefetch(work, range(9), workers=2, stop=stop)
        assert next(results) == 0
        waiting.wait()  # both threads are busy with what comes next
        return results

    told: list[bool] = []
    with monkeypatch.context() as patch:
        patch.setattr(prefetching, "PATIENCE", 0.05)
        begin(lambda: told.append(True)).close()
    assert told
    assert len(threads_left()) == 2
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "prefetch")
    hang.set()
    wait_until(lambda: not threads_left())

    begin(hang.set).close()
    assert not threads_left()
