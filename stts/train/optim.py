"""AdamW with a learning rate for each part of the model, and the schedule they share."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from ..hosts.adapters import is_adapter
from ..hosts.classes import host_of
from .config import GROUPS, LearningRates, TrainConfig

POSITIONS = ("positional_embedding", "pos_embed.weight")
"""How the names of tables of positions end."""


def parts_of(model: nn.Module) -> Mapping[str, tuple[str, ...]]:
    """How the names of each part's parameters begin, as the host of a pruning or plain model says. A model without a
    host is all LLM."""
    described = getattr(model, "host_type", None) or host_of(type(model))
    return {} if described is None else described(model).parts


def group_of(name: str, parts: Mapping[str, tuple[str, ...]]) -> str:
    """The part of the model, one of GROUPS, that a parameter belongs to by its name. parts: the host's."""
    return next((part for part, prefixes in parts.items() if name.startswith(prefixes)), "llm")


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Matrices are decayed; biases, norm weights (all one-dimensional) and the table of positions are not."""
    return parameter.ndim >= 2 and not name.endswith(POSITIONS)


def freeze(model: nn.Module, rates: LearningRates) -> None:
    """Take gradients from the parts with learning rate 0, from what no video and no text reaches, and from an LLM
    with adapters, but not from the adapters. All other parameters get them."""
    names = [name for name, _ in model.named_parameters()]
    adapted, parts = any(is_adapter(name) for name in names), parts_of(model)
    unread = model.host.unread if hasattr(model, "host") else ()
    for name, parameter in model.named_parameters():
        group = group_of(name, parts)
        replaced = adapted and group == "llm" and not is_adapter(name)
        left = replaced or name.startswith(unread)
        parameter.requires_grad_(getattr(rates, group) > 0 and not left)


def parameter_groups(model: nn.Module, rates: LearningRates, weight_decay: float) -> list[dict]:
    """Trainable parameters, each in exactly one AdamW group with its part's name, learning rate and decay.

    Raises ValueError when a part that should be trained has no parameters that take a gradient.
    """
    members: dict[tuple[str, bool], list[nn.Parameter]] = {}
    parts = parts_of(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            members.setdefault((group_of(name, parts), is_decayed(name, parameter)), []).append(parameter)
    groups = []
    for group in GROUPS:
        rate = getattr(rates, group)
        found = [decayed for decayed in (True, False) if (group, decayed) in members]
        if rate and not found:
            raise ValueError(
                f"train.lr.{group} is {rate} but the model has no trainable parameter in that part"
            )
        for decayed in found:
            groups.append(
                {
                    "params": members[group, decayed],
                    "name": group,
                    "lr": rate,
                    "weight_decay": weight_decay if decayed else 0.0,
                }
            )
    return groups


def lr_factor(step: float, config: TrainConfig) -> float:
    """Share of the peak learning rate at a step, counted from 0: linear warm-up, then cosine or constant."""
    if step < config.warmup_steps:
        return min(1.0, (step + 1) / config.warmup_steps)
    if config.schedule == "constant":
        return 1.0
    progress = (step - config.warmup_steps) / max(1, config.max_steps - config.warmup_steps)
    return config.min_lr_ratio + (1 - config.min_lr_ratio) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the model's trainable parameters, fused on CUDA."""
    groups = parameter_groups(model, config.rates, config.weight_decay)
    on_cuda = all(p.is_cuda for group in groups for p in group["params"])
    return torch.optim.AdamW(groups, betas=config.betas, fused=on_cuda)


def set_lr(optimizer: torch.optim.Optimizer, step: float, config: TrainConfig) -> dict[str, float]:
    """Give every group its learning rate for a step; returns part -> rate. A function of the step alone, so a
    resumed run has no schedule to restore."""
    factor = lr_factor(step, config)
    for group in optimizer.param_groups:
        group["lr"] = getattr(config.rates, group["name"]) * factor
    return {group["name"]: group["lr"] for group in optimizer.param_groups}
