"""A run's settings, as a plan counts them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import nn

from ..plan.memory import Setup
from ..plan.models import Shape
from .config import LoraSettings, TrainConfig
from .lora import add_adapters
from .optim import freeze
from .run_config import PlanConfig, RunConfig


def setup_of(run: RunConfig, asked: PlanConfig, longest: Shape, frames_of_unit: int) -> Setup:
    """How a step of this run is counted: with videos like the longest."""
    train = run.train
    videos = asked.videos or videos_of(
        train, longest.tokens(run.stts.prune_ratio), longest.units * frames_of_unit
    )
    return Setup(
        train.parallel.name,
        asked.gpus,
        videos,
        train.gradient_checkpointing,
        dtype=getattr(torch, run.model.dtype),
        prepare=preparing(train),
    )


def videos_of(train: TrainConfig, tokens: int, frames: int) -> int:
    """Of one forward pass: what rows of max_tokens hold of videos of so many surviving tokens and frames; one where
    none is set."""
    if not (train.max_tokens or train.max_frames):
        return 1
    limits = ((train.max_tokens, tokens), (train.max_frames, frames))
    of_row = min(limit // size for limit, size in limits if limit)
    return max(train.batch_size * of_row if train.pack_buffer else train.batch_size, 1)


def preparing(train: TrainConfig) -> Callable[[nn.Module], None]:
    """What happens to a model before its first step, as far as a plan counts it: adapters, frozen parts."""

    def prepare(model: nn.Module) -> None:
        if train.lora:
            add_adapters(model, train.lora)
        freeze(model, train.rates)

    return prepare


def adapters_for(train: TrainConfig) -> Callable[[nn.Module], None] | None:
    """The same with LoRA's adapters; None where they are there, cannot be, or the LLM is not trained."""
    if train.lora or not train.rates.llm or find_spec("peft") is None:
        return None
    return preparing(dataclasses.replace(train, lora=LoraSettings()))
