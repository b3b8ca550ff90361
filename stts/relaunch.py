"""`accelerate launch --cpu --num_processes N` starts one process, whatever N is, and leaves the others to mpirun.

Here they are started without it: the one becomes torchrun, which hands signals on and ends with 1 when one fails.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from .settings.launch import USAGE_ERROR

RANKED = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
"""What launchers of several processes set for each: torchrun, and mpirun of several makes."""
UNKNOWN = (
    "error: accelerate was asked for several processes on the CPU, of which it starts one: give their number on its "
    "command line, accelerate launch --cpu --num_processes N, or use torchrun --nproc-per-node N; torchrun also for "
    "several machines"
)


def start_all_processes() -> None:
    """Where accelerate was asked for several processes on the CPU, become torchrun with all of them.

    Does not return then; its processes come by here with a rank. Ends the process, saying what to do, where it cannot
    be seen how many they should be: alone it would train something else.
    """
    # accelerate sets both when it was asked for several processes on the CPU
    several = os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_ADDR" in os.environ
    if not several or any(name in os.environ for name in RANKED):
        return
    import psutil

    parent = psutil.Process().parent()
    number = processes_asked_for(parent.cmdline() if parent else [])
    if number is None:
        print(UNKNOWN, file=sys.stderr)
        sys.exit(USAGE_ERROR)
    if number == 1:
        return
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(number)]
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *torchrun, *sys.argv])


def processes_asked_for(command: Sequence[str]) -> int | None:
    """--num_processes of a command that is `accelerate launch` in one of its forms, on one machine; else None."""
    from accelerate.commands.launch import launch_command_parser

    start = next((i for i, word in enumerate(command, 1) if word.endswith(("launch", "launch.py"))), None)
    if start is None:
        return None
    asked = launch_command_parser().parse_known_args(command[start:])[0]
    return asked.num_processes if (asked.num_machines or 1) == 1 else None
