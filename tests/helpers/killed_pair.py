"""One sharded run of two processes, started again and again with the same settings; each time one of them is killed.

    python tests/helpers/killed_pair.py MODEL ANNOTATIONS ROOT OUTPUT_DIR

The processes of a start are forked from this one, which has imported torch and computed nothing: it is the imports
that cost time. Prints a JSON object of each start: how its processes ended. test_parallel.py launches it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

import torch

import stts.hosts.molmo2  # noqa: F401 (once, not in every process)
from stts.train.tracking import Tracker
from tests.helpers.kills import kill_before
from tests.helpers.two_processes import draw_nothing, run

KILLS = [
    (0, "os.rename", "*/checkpoints/.shards.partial", 2),
    (1, "open", "*/train.jsonl", 3),  # opened once to check it, then for every example
]
"""Which process of each start dies, and before which file operation: before the shards of both get into the second
checkpoint; in the middle of step 4, as it reads an example. The last start is left alone."""
ALONE = 1
"""Start in which the other process is left to find out for itself."""
PATIENCE = 300
"""Seconds after which a process that hangs is ended."""


def start(inputs: tuple[Path, Path, Path], output_dir: Path, kill: tuple | None, alone: bool) -> list[int]:
    """How the two processes of a start end: their exit statuses, -9 for a killed one. alone: leave the other be."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = {}
    for rank in range(2):
        if not (child := os.fork()):
            work(rank, port, inputs, output_dir, kill[1:] if kill and kill[0] == rank else None)
        running[child] = rank
    ended = {}
    while running:
        child, status = os.wait()
        ended[running.pop(child)] = os.waitstatus_to_exitcode(status)
        if any(ended.values()) and not alone:
            for other in running:
                os.kill(other, signal.SIGKILL)
    return [ended[0], ended[1]]


def work(rank: int, port: int, inputs: tuple[Path, Path, Path], output_dir: Path, kill: tuple | None) -> None:
    """What a process of a start does. Never returns."""
    try:
        signal.alarm(PATIENCE)
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), **address}
        torch.set_num_threads(1)
        if kill:
            kill_before(*kill)
        run("fsdp", inputs, output_dir, eval_every=0)
        torch.distributed.destroy_process_group()
        os._exit(0)
    except BaseException as error:
        traceback.print_exc()
        os._exit(1 if isinstance(error, RuntimeError) else 70)  # 1: the other one is gone


def main(*paths: str) -> None:
    Tracker.draw_curves = draw_nothing
    *inputs, output_dir = map(Path, paths)
    for number, kill in enumerate([*KILLS, None]):
        ended = start(tuple(inputs), output_dir, kill, alone=number == ALONE)
        print(json.dumps({"ended": ended}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
