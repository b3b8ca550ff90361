"""A training step planned: what it needs, whether that fits, how long it takes, what to change."""

from __future__ import annotations

from dataclasses import dataclass, replace

from transformers import PreTrainedConfig

from ..pruning.config import STTSConfig
from .gpus import LAUNCH, SPREAD, Gpu, fits
from .memory import Needed, Setup, measure
from .models import ANSWER, FAMILIES, Shape


@dataclass(frozen=True)
class Plan:
    """One way to train."""

    ratio: float
    tokens: int
    """That the LLM sees of a video."""
    teraflop: float
    """Forward and backward pass of a video, two for a multiply-add."""
    needed: Needed
    setup: Setup

    def seconds(self, gpu: Gpu) -> tuple[float, float]:
        """A step, at least and at most, by the card's rates: arithmetic and traffic, or launches where these take
        longer."""
        again = 4 / 3 if self.setup.recompute else 1.0  # the forward pass once more
        arithmetic = self.teraflop * self.setup.batch_size * again / gpu.teraflops
        busy = arithmetic + self.needed.moved / gpu.terabytes / 1e12
        taken = max(busy, self.needed.kernels * LAUNCH)
        return taken * SPREAD[0], taken * SPREAD[1]

    def gigabytes(self) -> float:
        return self.needed.total / 1e9


def plan(config: PreTrainedConfig, stts: STTSConfig, shape: Shape, setup: Setup) -> Plan:
    """Count one way to train. Raises ValueError for settings that the model cannot take."""
    logits = None if setup.all_logits else ANSWER
    cost = FAMILIES[config.model_type].arithmetic(config, shape, stts.prune_ratio, logits)
    needed = measure(config, stts, shape, setup)
    return Plan(stts.prune_ratio, shape.tokens(stts.prune_ratio), 2 * cost.total / 1e12, needed, setup)


def advice(config: PreTrainedConfig, stts: STTSConfig, shape: Shape, planned: Plan, gpu: Gpu) -> list[str]:
    """What to change so that a step fits a card, cheapest first; each with what it leads to."""
    setup, found = planned.setup, []
    if fits(planned.gigabytes(), gpu) == "yes":
        return found
    if not setup.recompute:
        again = plan(config, stts, shape, replace(setup, recompute=True))
        found.append(
            f"train.gradient_checkpointing=true: {again.gigabytes():.0f} GB ({fits(again.gigabytes(), gpu)}), "
            "a third more arithmetic"
        )
    state = sum(planned.needed.parts.get(part, 0) for part in ("weights", "moments", "gradients")) / 1e9
    if setup.batch_size > 1:
        found.append(f"train.batch_size=1: activations of one video in place of {setup.batch_size}")
    if setup.parallel != "fsdp":
        found.append(
            f"parallel=fsdp on several GPUs: {state:.0f} GB of weights and moments are shared among them"
        )
    elif setup.parallel == "fsdp":
        found.append(f"more GPUs: {state:.0f} GB of weights, gradients and moments become less in proportion")
    found.append(
        "train.lora={rank: 16}: gradients and moments of the adapters alone, in place of all weights'"
    )
    found.append(f"a prune_ratio above {stts.prune_ratio:g}, or fewer frames: activations go with the tokens")
    return found
