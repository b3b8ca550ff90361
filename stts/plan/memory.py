"""The peak of memory of a training step on each GPU: counted on the meta device, with what ranks share added."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..pruning.config import STTSConfig
from .allocations import Allocations
from .models import ANSWER, Shape, build, make_batch
from .pretend import pretended

STATE = 4
"""Bytes of a float32: of a weight, of its gradient, and of each of AdamW's two moments."""


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

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def measure(config: PreTrainedConfig, stts: STTSConfig, shape: Shape, setup: Setup) -> Needed:
    """A forward and a backward pass without values. Nothing is measured of what kernels take inside."""
    sharded = setup.shards > 1
    model = build(config, stts.replace(attention="varlen"), torch.bfloat16 if sharded else torch.float32)
    batch = make_batch(config, shape, setup.batch_size)
    labels = batch["labels"].numel() - 1 if setup.all_logits else ANSWER * setup.batch_size
    kept = (
        shape.tokens(stts.prune_ratio) - shape.text - shape.units * shape.text_per_unit
    ) * setup.batch_size
    allocations, parameters = Allocations(kept), list(model.parameters())
    number = sum(p.numel() for p in parameters)
    allocations.extra["weights"] = STATE * number // setup.shards
    allocations.extra["moments"] = 2 * STATE * number // setup.shards
    if setup.shards == 1 and setup.gpus > 1:
        allocations.extra["buffers"] = STATE * number  # DDP's buckets
    model.get_output_embeddings().register_forward_pre_hook(
        lambda *_: setattr(allocations, "label", "logits")
    )
    with pretended() as autocast, allocations, _gradients(model, allocations, setup):
        if setup.recompute:
            options = {"use_reentrant": False, "context_fn": autocast.once_more}
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
        allocations.start()
        targets = {} if setup.all_logits else {"num_targets": labels}
        out = model(**batch, **targets, use_cache=False)
        loss = out.lm_loss + model.stts.aux_loss_weight * out.aux_loss
        autocast.copies.clear()
        del out
        allocations.label = "gradients"
        loss.backward()
        _after(allocations, number, setup)
    return Needed(dict(allocations.at_peak), allocations.moved, allocations.kernels, number)


def _after(allocations: Allocations, number: int, setup: Setup) -> None:
    """The optimizer's step: every gradient is there, of DDP with the buckets that they are views of."""
    allocations.extra["gradients"] = STATE * number // setup.shards if setup.shards > 1 else 0
    allocations.extra["buffers"] = 0
    allocations.look()


@contextmanager
def _gradients(model: nn.Module, allocations: Allocations, setup: Setup) -> Iterator[None]:
    """While backward runs: gradients of a sharded unit are summed as soon as it is done, and only a share stays."""
    hooks = []
    units = [list(module.parameters()) for module in _modules(model)]
    owned = {id(p) for unit in units for p in unit}
    rest = [p for p in model.parameters() if id(p) not in owned]
    if setup.shards > 1:
        largest = max(sum(p.numel() for p in unit) for unit in units)
        gathered = 2 * largest + sum(p.numel() for p in rest)  # a unit, the next one, and what no unit holds
        allocations.extra["buffers"] = 2 * gathered  # bfloat16
    for unit in [*units, rest]:
        waiting = {id(p) for p in unit if p.requires_grad}

        def done(p: Tensor, unit: list[Tensor] = unit, waiting: set[int] = waiting) -> None:
            waiting.discard(id(p))
            if setup.shards == 1:
                return
            if not waiting:
                size = STATE * sum(q.numel() for q in unit)
                if unit is rest:
                    allocations.extra["buffers"] -= size // 2  # its weights are freed by now
                allocations.extra["gradients"] += size // setup.shards
                allocations.extra["buffers"] += size  # what is summed is a float32 copy
                allocations.look()
                allocations.extra["buffers"] -= size
                for q in unit:
                    q.grad = None

        hooks += [p.register_post_accumulate_grad_hook(done) for p in unit if p.requires_grad]
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
