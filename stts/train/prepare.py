"""What happens to a model before its first step, and what a run says about that."""

from __future__ import annotations

from collections import Counter

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from torch import nn

from ..pruning.attention import describe_attention
from .compiled import compile_layers
from .config import GROUPS, TrainConfig
from .lora import add_adapters
from .optim import freeze, group_of
from .parallel import is_sharded, shard

PARALLELISM = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)


def prepare(model: nn.Module, config: TrainConfig, accelerator: Accelerator, bf16: bool) -> nn.Module:
    """Make a model ready for its first step, in place: adapters, frozen parts, device, shards, compiled layers.

    Returns what the loop calls: the model itself, or DDP around it. Raises ValueError for a launcher that asks for
    any parallelism but DDP and FSDP2.
    """
    kind = accelerator.distributed_type
    if kind not in PARALLELISM:
        raise ValueError(
            f"the launcher asks for {kind.value}, but parallel=ddp|fsdp decides: start with torchrun, or with "
            "`accelerate launch --multi_gpu`"
        )
    if config.lora:
        add_adapters(model, config.lora, config.seed)
    set_seed(config.seed, device_specific=True)
    freeze(model, config.rates)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    if config.parallel.name == "fsdp" and accelerator.num_processes > 1:
        called = shard(model, accelerator.device, accelerator.num_processes, bf16, config.parallel.reshard)
    else:
        called = accelerator.prepare_model(model)
    if config.compile:
        compile_layers(model)
    return called


def refuse_damaged_weights(model: nn.Module) -> None:
    """Raises ValueError, naming model and tensor, when a weight is NaN or infinite: nothing is learned from there."""
    for name, parameter in model.named_parameters():
        if parameter.numel() and not all(bound.isfinite() for bound in parameter.detach().aminmax()):
            raise ValueError(
                f"the model {getattr(model, 'name_or_path', '')} has weights that are NaN or infinite, in {name} for "
                "one: its file is damaged, or its training had failed; take another model or checkpoint"
            )


def describe_training(model: nn.Module, accelerator: Accelerator, bf16: bool) -> list[str]:
    """Lines for the log: who computes, what is trained, and with which kernels."""
    number = accelerator.num_processes
    how = "sharded over them (FSDP2)" if is_sharded(model) else "whole on each (DDP)"
    sharing = f"{number} processes, the model {how}" if number > 1 else "one process"
    trained, total, named = Counter(), Counter(), model.host.parts
    for name, parameter in model.named_parameters():
        total[group_of(name, named)] += parameter.numel()
        trained[group_of(name, named)] += parameter.numel() * parameter.requires_grad
    parts = (f"{group} {trained[group]:,} of {total[group]:,}" for group in GROUPS)
    return [
        f"{accelerator.device.type}, {sharing}, {'bf16' if bf16 else 'full precision'}",
        f"trained parameters: {', '.join(parts)}",
        f"attention: {describe_attention(model, torch.bfloat16 if bf16 else None)}",
    ]
