"""Cards, and the rates that times are worked out with. Rates are guesses until a file of measured ones is given."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Gpu:
    """A card."""

    gigabytes: float
    """Of memory, 1e9 bytes each."""
    teraflops: float
    """That a training step reaches, bfloat16, attention included."""
    terabytes: float
    """A second, of memory."""


CONTEXTS = 3.0
"""GB for CUDA and NCCL."""
FRAGMENTS = 0.05
"""Of what is allocated, lost between blocks."""
CLOSE = 0.9
"""Above this share of a card it is too close to say."""
LAUNCH = 6e-6
"""Seconds of the host for a kernel."""
SPREAD = (0.8, 1.6)
"""Of a time that was worked out: the range that is told."""
FRAMES_PER_CORE = 44.0
"""Decoded and resized to 378 x 378 in a second by one core, of 640 x 360 (benchmarks/results/decode-cpu.json)."""

GPUS = {
    "A100-80": Gpu(85.0, 220.0, 1.6),
    "H100": Gpu(85.0, 450.0, 2.7),
    "H200": Gpu(149.0, 450.0, 3.9),
    "B200": Gpu(191.0, 1000.0, 6.4),
}


def read_gpus(rates: str | None) -> tuple[dict[str, Gpu], bool]:
    """Cards, and whether their rates were measured.

    rates: a JSON file, {"H200": {"teraflops": 480, "terabytes": 3.8}}, of cards in GPUS or, with "gigabytes", others.
    Raises ValueError for one that says something else.
    """
    if rates is None:
        return GPUS, False
    try:
        found = json.loads(Path(rates).read_text())
        told = {
            name: Gpu(**{**vars(GPUS[name]), **one} if name in GPUS else one) for name, one in found.items()
        }
        if not told or not all(
            isinstance(x, int | float) and x > 0 for g in told.values() for x in vars(g).values()
        ):
            raise ValueError("rates must be positive numbers")
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise ValueError(
            f'rates={rates}: {error}; must be like {{"H200": {{"teraflops": 480, "terabytes": 3.8}}}}'
        ) from error
    return told, True


def fits(needed: float, gpu: Gpu) -> str:
    """ "yes", "no", or "too close to say". needed: GB at least."""
    share = (needed * (1 + FRAGMENTS) + CONTEXTS) / gpu.gigabytes
    return "yes" if share <= CLOSE else "too close to say" if share <= 1 else "no"
