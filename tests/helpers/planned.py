"""What any model's plan must say."""

from __future__ import annotations

from stts import STTSConfig
from stts.plan.cost import plan
from stts.plan.gpus import GPUS
from stts.plan.memory import Setup
from stts.plan.models import Model


def check_less_is_needed(model: Model, frames: int) -> None:
    """Less is needed of everything where half of the windows go."""
    shape, setup = model.shape(frames, (24, 24)), Setup("ddp", batch_size=2)
    half, unpruned = (plan(model, STTSConfig(prune_ratio=ratio), shape, setup) for ratio in (0.5, 0.0))
    assert half.tokens < unpruned.tokens
    assert half.teraflop < unpruned.teraflop
    assert half.needed.parts["activations"] < unpruned.needed.parts["activations"]
    assert half.needed.parts["weights"] == 4 * half.needed.parameters
    low, high = half.seconds(GPUS["H100"])
    assert 0 < low < high
