"""The peak of memory of a training step on each GPU: counted on the meta device, with what ranks share added."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..pruning.config import STTSConfig
from .allocations import Allocations
from .models import ANSWER, Model, Shape
from .pretend import pretended

SUMMED = 4
"""Bytes of a number while gradients of a shard are summed: float32."""


@dataclass(frozen=True)
class Setup:
    """How a step is run."""

    parallel: str = "fsdp"
    """"ddp", also for one GPU, or "fsdp"."""
    gpus: int = 1
    batch_size: int = 1
    recompute: bool = False
    all_logits: bool = False
    """Logits of every token, not of supervised ones alone."""
    dtype: torch.dtype = torch.float32
    """Of a weight, of its gradient, and of each of AdamW's two moments."""
    prepare: Callable[[nn.Module], None] | None = None
    """What is done to a model before its first step: parts frozen, adapters put in. None: all of it is trained."""

    @property
    def shards(self) -> int:
        return self.gpus if self.parallel == "fsdp" else 1


@dataclass(frozen=True)
class Needed:
    """Bytes at the peak on one GPU, by part."""

    parts: dict[str, int]
    moved: int
    """Bytes through kernels that are no matrix products, of a whole step."""
    kernels: int
    parameters: int
    learned: int
    """Of those, that are trained."""

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def measure(model: Model, stts: STTSConfig, shape: Shape, setup: Setup) -> Needed:
    """A forward and a backward pass without values. Nothing is measured of what kernels take inside."""
    built = model.build(stts.replace(attention="varlen"), torch.bfloat16 if setup.shards > 1 else setup.dtype)
    if setup.prepare:
        with torch.device("meta"):
            setup.prepare(built)
    batch = model.batch(shape, setup.batch_size)
    labels = batch["labels"].numel() - 1 if setup.all_logits else ANSWER * setup.batch_size
    allocations = Allocations(shape.kept(stts.prune_ratio) * setup.batch_size)
    number, learned = size(built.parameters()), size(p for p in built.parameters() if p.requires_grad)
    of_each, ranks = setup.dtype.itemsize, setup.shards
    allocations.extra["weights"] = of_each * number // ranks
    allocations.extra["moments"] = 2 * of_each * learned // ranks
    if ranks == 1 and setup.gpus > 1:
        allocations.extra["buffers"] = of_each * learned  # DDP's buckets
    built.get_output_embeddings().register_forward_pre_hook(
        lambda *_: setattr(allocations, "label", "logits")
    )
    frames = shape.units * setup.batch_size
    with (
        pretended(frames, shape.units * shape.windows) as autocast,
        allocations,
        _gradients(built, allocations, setup),
    ):
        if setup.recompute:
            options = {"use_reentrant": False, "context_fn": autocast.once_more}
            built.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
        allocations.start()
        targets = {} if setup.all_logits else {"num_targets": labels}
        out = built(**batch, **targets, use_cache=False)
        loss = out.lm_loss + built.stts.aux_loss_weight * out.aux_loss
        autocast.copies.clear()
        del out
        allocations.label = "gradients"
        loss.backward()
        _after(allocations, of_each * learned, setup)
    parts = max(
        dict(allocations.at_peak), _at_the_end(built, allocations, setup), key=lambda x: sum(x.values())
    )
    return Needed(parts, allocations.moved, allocations.kernels, number, learned)


def size(parameters: Iterable[Tensor]) -> int:
    """How many numbers they hold."""
    return sum(p.numel() for p in parameters)


def _after(allocations: Allocations, gradients: int, setup: Setup) -> None:
    """The optimizer's step: every gradient is there, of DDP with the buckets that they are views of."""
    allocations.extra["gradients"] = gradients // setup.shards if setup.shards > 1 else 0
    allocations.extra["buffers"] = 0
    allocations.look()


def _at_the_end(built: nn.Module, allocations: Allocations, setup: Setup) -> dict[str, int]:
    """When adapters are merged for the result, beside the weights that they adapt; shards are merged on the host."""
    parts = {name: allocations.extra[name] for name in ("weights", "moments")}
    adapted = size(p for name, p in built.named_parameters() if ".base_layer." in name)
    return parts | {"merged": setup.dtype.itemsize * adapted if setup.shards == 1 else 0}


@contextmanager
def _gradients(model: nn.Module, allocations: Allocations, setup: Setup) -> Iterator[None]:
    """While backward runs: gradients of a sharded unit are summed as soon as it is done, and only a share stays."""
    hooks = []
    units = [list(module.parameters()) for module in _modules(model)]
    owned = {id(p) for unit in units for p in unit}
    rest = [p for p in model.parameters() if id(p) not in owned]
    if setup.shards > 1:
        gathered = 2 * max(map(size, units)) + size(rest)  # a unit, the next one, and what no unit holds
        allocations.extra["buffers"] = 2 * gathered  # bfloat16
    for unit in [*units, rest]:
        learned = [p for p in unit if p.requires_grad]
        waiting = {id(p) for p in learned}

        def done(
            p: Tensor, unit: list = unit, learned: list[Tensor] = learned, waiting: set[int] = waiting
        ) -> None:
            waiting.discard(id(p))
            if setup.shards == 1 or waiting:
                return
            if unit is rest:
                allocations.extra["buffers"] -= 2 * size(rest)  # its weights are freed by now
            allocations.extra["gradients"] += setup.dtype.itemsize * size(learned) // setup.shards
            allocations.extra["buffers"] += SUMMED * size(learned)  # what is summed is a float32 copy
            allocations.look()
            allocations.extra["buffers"] -= SUMMED * size(learned)
            for q in learned:
                q.grad = None

        hooks += [p.register_post_accumulate_grad_hook(done) for p in learned]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _modules(model: nn.Module) -> list[nn.Module]:
    """What FSDP2 gathers and frees at a time."""
    host = model.host
    adapter = nn.ModuleList([model.get_submodule(path) for path in host.adapter_at])
    return [*host.blocks, host.scorer, adapter, *host.layers]
