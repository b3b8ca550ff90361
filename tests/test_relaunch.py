"""What `accelerate launch --cpu` leaves undone. That it is done, with real processes: test_configs.py."""

from __future__ import annotations

import os
import sys

import pytest

from stts import relaunch

PYTHON = ["/usr/bin/python3"]
TAIL = ["scripts/train.py", "train.max_steps=2", "--num_processes", "7"]


@pytest.mark.parametrize(
    ("command", "number"),
    [
        ([*PYTHON, "/bin/accelerate", "launch", "--num_processes", "2", "--cpu", *TAIL], 2),
        ([*PYTHON, "/bin/accelerate", "launch", "--cpu", "--num-processes=3", *TAIL], 3),
        ([*PYTHON, "/bin/accelerate-launch", "--cpu", "--num_processes=4", *TAIL], 4),
        ([*PYTHON, "-X", "dev", "-m", "accelerate.commands.launch", "--num_processes=5", "--cpu", *TAIL], 5),
        ([*PYTHON, "/site-packages/accelerate/commands/launch.py", "--num_processes=6", *TAIL], 6),
        ([*PYTHON, "/bin/accelerate", "launch", "--config_file", "cpu.yaml", *TAIL], None),
        ([*PYTHON, "/bin/accelerate", "launch", "--num_machines", "2", "--num_processes", "4", *TAIL], None),
        ([*PYTHON, "scripts/train.py", "--num_processes", "7"], None),
        (["-bash"], None),
        ([], None),
    ],
)
def test_how_many_processes_a_command_asks_for(command, number):
    assert relaunch.processes_asked_for(command) == number


@pytest.fixture
def started(monkeypatch):
    """started(number, **environment) -> the command that the process became; None: it went on as it was."""

    def start(number: int | None, **environment: str) -> list[str] | None:
        commands = []
        for name in ("ACCELERATE_USE_CPU", "MASTER_ADDR", *relaunch.RANKED):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(relaunch, "processes_asked_for", lambda command: number)
        monkeypatch.setattr(os, "execv", lambda path, command: commands.append(command))
        monkeypatch.setattr(sys, "argv", ["train.py", "a=1"])
        relaunch.start_all_processes()
        return commands[0] if commands else None

    return start


def test_only_the_one_process_of_several_becomes_torchrun(started, capsys):
    several = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1"}
    command = started(2, **several)
    assert command[1:] == [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "train.py",
        "a=1",
    ]
    for rank in relaunch.RANKED:  # those it starts come by here again
        assert started(2, **several, **{rank: "0"}) is None
    assert started(1, **several) is None
    assert started(2) is None
    assert started(2, MASTER_ADDR="127.0.0.1") is None
    assert started(2, MASTER_ADDR="127.0.0.1", ACCELERATE_USE_CPU="False") is None
    assert started(2, ACCELERATE_USE_CPU="True") is None  # accelerate was asked for one
    with pytest.raises(SystemExit) as stop:
        started(None, **several)
    assert stop.value.code == 2
    assert "torchrun --nproc-per-node N" in capsys.readouterr().err
