"""The processes of one launch by torchrun or accelerate."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import PartialState

RANKED = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
"""What launchers of several processes set for each: torchrun, and mpirun of several makes."""


def join_processes() -> PartialState:
    """Connect this process to the others of its launch, if there are any. It may be called again."""
    import torch
    from accelerate import PartialState

    on_cpu = not torch.accelerator.is_available()  # accelerate must be told, or every process trains alone
    return PartialState(cpu=on_cpu, timeout=timedelta(hours=2))  # the others wait while the first evaluates


def refuse_lone_process() -> None:
    """Exit with status 2 where `accelerate launch` was asked for several processes on a CPU.

    It starts only one there, which would train alone.
    """
    asked = (
        os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_ADDR" in os.environ
    )  # it sets both then
    if asked and not any(name in os.environ for name in RANKED):
        print(
            "error: on a CPU accelerate starts one process of several; use torchrun --nproc-per-node N",
            file=sys.stderr,
        )
        sys.exit(2)
