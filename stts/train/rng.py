"""The random numbers of a process, saved and put back: a run that goes on draws what it would have drawn."""

from __future__ import annotations

import random


def rng_state() -> dict:
    """The state of every generator training draws from, as values torch.load takes with weights_only."""
    import numpy as np
    import torch

    name, keys, *rest = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
    }
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def set_rng_state(state: dict) -> None:
    """Inverse of rng_state."""
    import numpy as np
    import torch

    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
