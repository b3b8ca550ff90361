"""From a transformers class to its pruning subclass, and from a loaded model to a pruning one and back."""

from __future__ import annotations

import importlib
import inspect
from copy import deepcopy
from functools import cache, wraps
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)

from ..pruning.config import STTSConfig
from ..pruning.scorer import STTSScorer
from .base import Host
from .model import PrunedVLM
from .pruned import PrunedModel, become
from .vision import VisionHost

HOSTS = {
    "Molmo2VisionModel": "molmo2.Molmo2Vision",
    "SiglipVisionModel": "vision.Siglip",
    "CLIPVisionModel": "vision.Clip",
    "Dinov2Model": "vision.Dinov2",
    "Dinov2WithRegistersModel": "vision.Dinov2WithRegisters",
    "VisionTransformer": "timm_vit.Timm",
    "Eva": "timm_vit.Timm",
    "Molmo2ForConditionalGeneration": "molmo2.Molmo2",
    "Qwen3VLForConditionalGeneration": "qwen3_vl.Qwen3VL",
    "Qwen3_5ForConditionalGeneration": "qwen3_5.Qwen35",
    "Qwen2_5_VLForConditionalGeneration": "qwen2_5_vl.Qwen25VL",
    "Qwen2VLForConditionalGeneration": "qwen2_vl.Qwen2VL",
    "Glm4vForConditionalGeneration": "glm4v.Glm4v",
    "Glm46VForConditionalGeneration": "glm4v.Glm4v",
    "VideoLlama3ForConditionalGeneration": "video_llama_3.VideoLlama3",
    "LlavaOnevisionForConditionalGeneration": "llava_onevision.LlavaOnevision",
    "LlavaNextVideoForConditionalGeneration": "llava_next_video.LlavaNextVideo",
    "InternVLForConditionalGeneration": "internvl.InternVL",
    "SmolVLMForConditionalGeneration": "smolvlm.SmolVLM",
    "Idefics3ForConditionalGeneration": "smolvlm.SmolVLM",
    "Gemma3ForConditionalGeneration": "gemma3.Gemma3",
    "Gemma4ForConditionalGeneration": "gemma4.Gemma4",
}
"""transformers' and timm's classes and the description of each, by module and name."""


def host_of(cls: type) -> type[Host] | None:
    """The description of a transformers class, or of the class it inherits from."""
    for parent in cls.__mro__:
        if parent.__name__ in HOSTS and parent.__module__.startswith(("transformers.", "timm.")):
            module, _, name = HOSTS[parent.__name__].rpartition(".")
            return getattr(importlib.import_module(f".{module}", __package__), name)
    return None


def pruning(cls: type[PreTrainedModel], host: type[Host] | None = None) -> type[PreTrainedModel]:
    """The pruning subclass of a transformers VLM class: stts.pruning(Qwen3VLForConditionalGeneration).

    Its from_pretrained takes plain weights, to which it adds a fresh scorer, and folders it has saved. The same class
    comes back every time. host: the description of a class that stts does not know (stts.hosts.base.Host). Raises
    ValueError, listing those it knows, for another one.
    """
    if issubclass(cls, PrunedModel):
        return cls
    host = host or host_of(cls)
    if host is None:
        raise ValueError(unsupported(cls))
    if not (isinstance(host, type) and issubclass(host, Host)):
        raise ValueError(
            f"host is {host!r}, must be a subclass of stts.hosts.base.Host: the class, not an instance"
        )
    return _pruning(cls, host)


@cache
def _pruning(base: type[PreTrainedModel], host: type[Host]) -> type[PreTrainedModel]:
    mixin = host.pruned() if issubclass(host, VisionHost) else PrunedVLM
    names = list(inspect.signature(base.forward).parameters)[1:]

    @wraps(base.forward)  # generate reads the names of its arguments
    def forward(self, *args: Any, **kwargs: Any):
        return mixin.forward(self, **dict(zip(names, args, strict=False)), **kwargs)

    attributes = {
        "__module__": __name__,
        "__doc__": f"transformers' {base.__name__}, pruning the video tokens of every batch.",
        "__reduce_ex__": _reduce,
        "forward": forward,
        "host_type": host,
        "base": base,
    }
    made = type(f"STTS{base.__name__}", (mixin, base), attributes)
    # transformers converts released key layouts only for classes it knows by name
    layout = get_checkpoint_conversion_mapping(base.__name__)
    kind = getattr(getattr(base, "config_class", None), "model_type", None)
    layout = layout or get_checkpoint_conversion_mapping(kind)
    if layout is not None:
        register_checkpoint_conversion_mapping(made.__name__, layout, overwrite=True)
    return made


def _reduce(self: nn.Module, protocol: int) -> tuple:
    """Pickle by what the class was made from: no module holds it by name."""
    _, _, *state = object.__reduce_ex__(self, protocol)
    return (_blank, (type(self).base, type(self).host_type), *state)


def _blank(base: type, host: type) -> nn.Module:
    made = pruning(base, host)
    return made.__new__(made)


def insert_stts(
    model: PreTrainedModel, config: STTSConfig, host: type[Host] | None = None
) -> PreTrainedModel:
    """Make a loaded model prune: a whole VLM, in forward and generate, or a bare vision model.

    The model gets a fresh scorer (train it, or load its weights) and `stts`, the settings, which can be assigned at
    any time. host: the description of a class that stts does not know. Returns the same model. Raises ValueError for
    an unsupported class, one that prunes already, and settings the model cannot take.
    """
    if hasattr(model, "stts"):
        raise ValueError(f"this {type(model).__name__} already has a scorer")
    made, before = pruning(type(model), host), type(model)
    own_config(model)
    become(model, made)
    try:
        model._adopt(config)
    except Exception:
        become(model, before)
        raise
    return model


def remove_stts(model: PreTrainedModel) -> STTSScorer:
    """Undo insert_stts, or stts.pruning: the model is of its transformers class again, with its state dict.

    Returns the scorer. Raises ValueError for a model that does not prune.
    """
    if not isinstance(model, PrunedModel):
        raise ValueError(f"a {type(model).__name__} has nothing to remove: it does not prune")
    scorer = model._release()
    del model.config.stts
    become(model, type(model).base)
    return scorer


def own_config(model: nn.Module) -> None:
    """Give a model a configuration of its own, if it shares one with others: pruning writes into it."""
    copies: dict[int, Any] = {}
    for module in model.modules():
        if "config" in vars(module):
            module.config = deepcopy(module.config, copies)


def unsupported(cls: type) -> str:
    """What to say of a class without a description."""
    return (
        f"cannot prune a {cls.__name__}; supported: {', '.join(HOSTS)}. Another model is described by a subclass of "
        "stts.hosts.base.Host, passed as host=... (docs/hosts.md)"
    )
