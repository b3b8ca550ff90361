"""The difficulty grid: kinds of generated clips on which pruning policies are compared.

The settings were fixed before any training, from what the training-free temporal policy finds (docs/evidence.md),
and stay fixed. Each cell changes one thing about the plain clips, `crowded` four. `decoys` and `passers` came
later, for what novelty alone gets wrong."""

from __future__ import annotations

from typing import Any

_ONE_LESS = {"min_events": 1, "max_events": 3}  # beside a further event: as many as in the other cells
CELLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "movers": {"movers": 6},
    "lamps": {"lamps": 4},  # novelty without relevance
    "pan": {"pan": 0.1},
    "still": {"still": 1, **_ONE_LESS},  # relevance without novelty ...
    "opening": {"opening": 1, **_ONE_LESS},
    "fading": {"fading": 1, **_ONE_LESS},  # ... that the first frame does not show
    "crowded": {"fading": 1, "movers": 6, "lamps": 4, "pan": 0.1, **_ONE_LESS},
    "decoys": {"decoys": 10},  # novelty without relevance, as striking as the events
    "passers": {"passers": 2},
}
"""Settings of SyntheticSpec by cell."""
