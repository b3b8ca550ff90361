"""How a script starts and ends: statuses, messages, sweeps in which some runs fail."""

from __future__ import annotations

import errno
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stts.settings.failures import as_message
from stts.settings.launch import launch


def run(monkeypatch, task: Callable[[dict[str, Any]], int | None], *arguments: str) -> int:
    """The exit status of a script with the settings of report.yaml, which names no model and no data."""
    monkeypatch.setattr(sys, "argv", ["report.py", *arguments])
    try:
        launch(task, "report")
    except SystemExit as stop:
        return stop.code
    return 0


def failing(seen: list[int], error: Exception | int) -> Callable[[dict[str, Any]], int | None]:
    """A task that fails where examples=1."""

    def task(config: dict[str, Any]) -> int | None:
        seen.append(config["examples"])
        if config["examples"] == 1 and isinstance(error, Exception):
            raise error
        return error if config["examples"] == 1 else None

    return task


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ValueError("examples is 1"), 2, "#1 examples=1: examples is 1"),
        (RuntimeError("out of memory"), 1, "#1 examples=1: RuntimeError: out of memory"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x.mp4"), 2, "#1 examples=1: x.mp4: No such file"),
        (3, 3, "#1 examples=1: exit status 3"),
    ],
)
def test_a_sweep_goes_on_past_a_run_that_fails(monkeypatch, capsys, error, status, message):
    seen = []
    assert run(monkeypatch, failing(seen, error), "examples=0,1,2", "title=x", "-m") == status
    assert seen == [0, 1, 2]
    told = capsys.readouterr().err
    assert f"1 of 3 runs failed:\n  {message}\n" in told
    assert ("Traceback" in told) == (status == 1)


@pytest.mark.parametrize("argument", ["stts.center_targets=true", "+stts.center_targets=false"])
def test_a_setting_that_is_gone_is_said_to_be(monkeypatch, capsys, argument):
    assert run(monkeypatch, failing([], 0), argument) == 2
    assert f"{argument.lstrip('+')} is gone: it taught the scorer less" in capsys.readouterr().err


def test_a_setting_that_is_gone_is_found_in_a_file_of_the_users_own(monkeypatch, tmp_path, capsys):
    (tmp_path / "experiment").mkdir()
    own = "# @package _global_\nstts: {center_targets: false}\n"
    (tmp_path / "experiment" / "own.yaml").write_text(own)
    monkeypatch.setattr(sys, "argv", ["train.py", "--config-dir", str(tmp_path), "experiment=own"])
    with pytest.raises(SystemExit, match="2"):
        launch(failing([], 0), "train")
    assert "stts.center_targets=False is gone" in capsys.readouterr().err


def test_a_sweep_ends_at_a_signal_and_in_a_launch_of_several_processes(monkeypatch, capsys):
    seen = []
    assert run(monkeypatch, failing(seen, 143), "examples=1,2", "-m") == 143
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(monkeypatch, failing(seen, ValueError("no")), "examples=0,1,2", "-m") == 2
    assert seen == [1, 0, 1]
    assert "1 of 2 runs failed" in capsys.readouterr().err


def test_one_run_that_fails_is_told_once(monkeypatch, capsys):
    assert run(monkeypatch, failing([], ValueError("examples is 1")), "examples=1") == 2
    told = capsys.readouterr().err
    assert told.count("examples is 1") == 1
    assert "failed" not in told
    assert run(monkeypatch, failing([], None), "examples=0") == 0


def test_an_error_that_nobody_foresaw_shows_where_it_arose(monkeypatch, capsys):
    assert run(monkeypatch, failing([], KeyError("x")), "examples=1") == 1
    assert "KeyError: 'x'" in capsys.readouterr().err


def test_full_errors_show_where_they_came_from(monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    for arguments in (["examples=1"], ["examples=1,2", "-m"]):
        with pytest.raises(ValueError, match="examples is 1"):
            run(monkeypatch, failing([], ValueError("examples is 1")), *arguments)


def test_something_is_said_at_once_but_not_to_a_machine(monkeypatch, capsys):
    assert run(monkeypatch, lambda config: None) == 0
    assert capsys.readouterr().err.startswith("stts report: reading settings")
    for asked in (["--help"], ["--cfg", "job"], ["--cfg=job", "examples=1"], ["--info", "defaults"]):
        assert run(monkeypatch, lambda config: None, *asked) == 0
        assert capsys.readouterr().err == ""
    monkeypatch.setenv("RANK", "1")
    assert run(monkeypatch, lambda config: None) == 0
    assert capsys.readouterr().err == ""


@pytest.fixture
def small_disk():
    """Files of at most 64 kB, as if the disk were full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_a_message(monkeypatch, capsys, tmp_path, small_disk):
    import torch
    from safetensors.torch import save_file

    weights = torch.zeros(2**16)

    def write(config):
        (tmp_path / "bytes").write_bytes(weights.numpy().tobytes())

    def write_tensors(config):
        save_file({"weights": weights}, tmp_path / "model.safetensors")

    def write_checkpoint(config):
        torch.save(weights, tmp_path / "model.pt")

    for task in (write, write_tensors, write_checkpoint):
        assert run(monkeypatch, task) == 2
        told = capsys.readouterr().err
        assert "error: no room left on the disk" in told
        assert "run this again" in told
        assert "Traceback" not in told


def test_folders_that_cannot_be_written_are_messages(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "x", "/proc/nowhere/x"):

        def write(config, folder=folder):
            Path(folder).mkdir(parents=True)

        assert run(monkeypatch, write) == 2
        assert str(folder).split("/x")[0] in capsys.readouterr().err


def test_only_what_is_about_files_and_values_is_a_message():
    assert as_message(TypeError("x")) is None
    assert as_message(PermissionError(errno.EACCES, "Permission denied", "out")) == "out: Permission denied"
    wrapped = RuntimeError("cannot write")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device", "out/model")
    assert "no room left on the disk for out/model" in as_message(wrapped)
