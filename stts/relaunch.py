"""`accelerate launch --cpu --num_processes N` starts one process, whatever N is, and leaves the others to mpirun.

Here they are started without it.
"""

from __future__ import annotations

import os
import sys

RANKED = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
"""What launchers of several processes set: torchrun, and mpirun of several makes."""


def start_all_processes() -> None:
    """Where accelerate was asked for several processes on the CPU, start over under torchrun with all of them; does
    not return then."""
    if os.environ.get("ACCELERATE_USE_CPU") != "True" or any(name in os.environ for name in RANKED):
        return
    number = processes_asked_for()
    if number > 1:
        torchrun = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(number),
        ]
        sys.stdout.flush()
        os.execv(sys.executable, [*torchrun, *sys.argv])


def processes_asked_for() -> int:
    """--num_processes of the `accelerate launch` that started this process; 1 when it was something else, or when
    it has several machines in mind."""
    import psutil
    from accelerate.commands.launch import launch_command_parser

    parent = psutil.Process().parent()
    command = parent.cmdline()[:4] if parent else []
    start = next((i for i, word in enumerate(command, 1) if word.endswith(("launch", "launch.py"))), None)
    if start is None:
        return 1
    asked = launch_command_parser().parse_known_args(parent.cmdline()[start:])[0]
    return (asked.num_processes or 1) if (asked.num_machines or 1) == 1 else 1
