"""A training step planned: what it needs, whether that fits, how long it takes, what to change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from ..pruning.config import STTSConfig
from .gpus import LAUNCH, SPREAD, Gpu, fits
from .memory import Needed, Setup, measure
from .models import ANSWER, Model, Shape


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


def plan(model: Model, stts: STTSConfig, shape: Shape, setup: Setup) -> Plan:
    """Count one way to train. Raises ValueError for settings that the model cannot take."""
    cost = model.arithmetic(shape, stts, None if setup.all_logits else ANSWER)
    needed = measure(model, stts, shape, setup)
    spared = cost.total * (1 - needed.learned / needed.parameters)  # gradients of frozen weights
    taught = 2 * (cost.with_backward().total - spared) / 1e12
    return Plan(stts.prune_ratio, shape.tokens(stts.prune_ratio), taught, needed, setup)


def advice(
    model: Model,
    stts: STTSConfig,
    shape: Shape,
    planned: Plan,
    gpu: Gpu,
    adapters: Callable[[nn.Module], None] | None = None,
) -> list[str]:
    """What to change so that a step fits a card, cheapest first; each with what it leads to.

    adapters: puts LoRA's into a model and freezes what they replace; None: they are there, or cannot be."""
    setup, found = planned.setup, []
    if fits(planned.gigabytes(), gpu) == "yes":
        return found

    def lead(to: str, **changes: object) -> str:
        gigabytes = plan(model, stts, shape, replace(setup, **changes)).gigabytes()
        found.append(f"{to}: {gigabytes:.0f} GB ({fits(gigabytes, gpu)})")
        return fits(gigabytes, gpu)

    again, lora = "train.gradient_checkpointing=true", "train.lora={rank: 16}"
    alone = []
    if not setup.recompute:
        alone.append(lead(f"{again}, a third more arithmetic", recompute=True))
    if adapters:
        alone.append(lead(f"{lora}, the LLM's own weights frozen", prepare=adapters))
    if len(alone) == 2 and "yes" not in alone:
        lead("both of these", recompute=True, prepare=adapters)
    state = sum(planned.needed.parts.get(part, 0) for part in ("weights", "moments", "gradients")) / 1e9
    if setup.batch_size > 1:
        found.append(f"fewer videos a forward pass: activations go with them, here {setup.batch_size}")
    if setup.parallel != "fsdp":
        found.append(
            f"parallel=fsdp on several GPUs: {state:.0f} GB of weights and moments are shared among them"
        )
    else:
        found.append(f"more GPUs: {state:.0f} GB of weights, gradients and moments become less in proportion")
    found.append(f"a prune_ratio above {stts.prune_ratio:g}, or fewer frames: activations go with the tokens")
    return found
