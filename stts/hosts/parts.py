"""Where a model's parts are: asked of its host, for those who train, shard, compile or count it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from .base import Host

Parts = Mapping[str, tuple[str, ...]]
"""Part of a model -> how the names of its parameters begin; first match wins, what fits none is the LLM's."""


def host_of(model: nn.Module) -> Host:
    """The description of a pruning model."""
    return model.host


def group_of(name: str, parts: Parts) -> str:
    """The part that a parameter belongs to by its name: "vision", "adapter", "llm" or "scorer"."""
    return next((part for part, prefixes in parts.items() if name.startswith(prefixes)), "llm")


def plain_class(model: nn.Module) -> str:
    """The name of transformers' own class, which loads the model's folders without pruning."""
    classes = (cls for cls in type(model).__mro__ if cls.__module__.startswith("transformers."))
    return next((cls.__name__ for cls in classes), type(model).__name__)
