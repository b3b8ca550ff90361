"""Where a model's parts are: asked of its host, for those who train, shard, compile or count it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from .base import Host

Parts = Mapping[str, tuple[str, ...]]
"""Part of a model -> how the names of its parameters begin; first match wins, what fits none is the LLM's."""


class Molmo2Parts(Host):
    """Names of STTSMolmo2ForConditionalGeneration."""

    blocks_at = "layers"
    adapter_at = (  # called one by one, not through the adapter
        "model.multi_modal_projector.image_pooling_2d",
        "model.multi_modal_projector.image_projector",
    )

    @property
    def unit(self) -> int:
        return self.model.stts.pool_width

    @property
    def token_id(self) -> int:
        return self.model.config.image_patch_id


MOLMO2 = Molmo2Parts(nn.Module()).parts


def host_of(model: nn.Module) -> Host:
    """The description of a pruning model."""
    return getattr(model, "host", None) or Molmo2Parts(model)


def group_of(name: str, parts: Parts = MOLMO2) -> str:
    """The part that a parameter belongs to by its name: "vision", "adapter", "llm" or "scorer"."""
    return next((part for part, prefixes in parts.items() if name.startswith(prefixes)), "llm")


def plain_class(model: nn.Module) -> str:
    """The name of transformers' own class, which loads the model's folders without pruning."""
    classes = (cls for cls in type(model).__mro__ if cls.__module__.startswith("transformers."))
    return next((cls.__name__ for cls in classes), type(model).__name__)
