"""A script run by two processes that are forked from one: it is the imports that cost time.

    python tests/helpers/forked_pair.py KILLS SCRIPT ARGUMENT ...

KILLS: so many times, one process starts the script alone and is killed -9 as it opens predictions.jsonl for the
second time. Then two start it as torchrun would. Exits with the highest status of these.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import sys
import traceback

import torch

import stts.eval.runner
import stts.hosts.load
import stts.hosts.molmo2  # noqa: F401 (all three once, not in every process)
from stts.settings.launch import launch
from tests.helpers.kills import kill_before
from tests.helpers.paths import ROOT

PATIENCE = 300
"""Seconds after which a process that hangs is ended."""


def fork(script: str, environment: dict[str, str], kill: bool = False) -> int:
    """Start the script in a process of its own. Returns its id."""
    if child := os.fork():
        return child
    try:
        signal.alarm(PATIENCE)
        os.environ |= environment
        torch.set_num_threads(1)
        if kill:
            kill_before("open", "*/predictions.jsonl", 2)
        spec = importlib.util.spec_from_file_location(f"{script}_script", ROOT / f"scripts/{script}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        launch(module.main, script)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        status = 0
    except SystemExit as stop:
        status = stop.code or 0
    except BaseException:
        traceback.print_exc()
        status = 70
    sys.stdout.flush()
    os._exit(status)


def status_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(kills: str, script: str, *arguments: str) -> int:
    sys.argv = [f"{script}.py", *arguments]
    for _ in range(int(kills)):
        assert status_of(fork(script, {}, kill=True)) == -signal.SIGKILL
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    children = [fork(script, address | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)]
    return max(abs(status_of(child)) for child in children)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
