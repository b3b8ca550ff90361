from __future__ import annotations

import logging

import pytest

import stts.eval.progress as progress_module
from stts.eval.progress import show_progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


def test_a_log_gets_a_line_a_minute(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), show_progress("own", total=100, recorded=40) as progress:
        for _ in range(5):
            clock.now += 20
            progress.encoded(8)
            progress.answered(4)
    lines = [record.getMessage() for record in caplog.records]
    # after 60 s: 12 of the 60 that were open, so the other 48 take 240 s
    assert lines == ["own: 52 of 100 questions, 0.2 questions/s, 0 frames/s, eta 0:04:00"]


def test_a_terminal_gets_a_bar(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    with show_progress("own", total=10, recorded=6) as progress:
        clock.now += 2
        progress.encoded(30)
        progress.answered(4)
    out = capsys.readouterr().out
    assert "10/10" in out
    assert "2.0 questions/s, 15 frames/s" in out


def test_it_can_be_quiet(
    capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture, clock: Clock
) -> None:
    with caplog.at_level(logging.INFO), show_progress("own", 10, 0, shown=False) as progress:
        clock.now += 1000
        progress.answered(10)
    assert capsys.readouterr().out == ""
    assert not caplog.records
