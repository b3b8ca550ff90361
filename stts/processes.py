"""The processes of one launch."""

from __future__ import annotations

from datetime import timedelta

import torch
from accelerate import PartialState


def join_processes() -> PartialState:
    """Meet the other processes of a launch by accelerate or torchrun, if there are any."""
    on_cpu = not torch.accelerator.is_available()  # accelerate must be told, or every process trains alone
    return PartialState(cpu=on_cpu, timeout=timedelta(hours=2))  # the others wait while the first evaluates
