"""What belongs to a model_type of config.json: the class that prunes it, its attention, its processor.

The one table that loading asks. A family is loaded on first use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.processors.config_file import read_config
from ..pruning.config import STTSConfig
from .folders import ModelSpec
from .sizes import POOL_WIDTH

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..data.processors.base import Processor


@dataclass(frozen=True)
class Family:
    """Models of one architecture."""

    pruning_class: Callable[[], type[PreTrainedModel]]
    attention: Callable[[ModelSpec, str], str | dict[str, str] | None]
    """Settings of the model and the device -> attn_implementation, as from_pretrained takes it."""
    processor: Callable[..., Processor]
    """Folder or hub id, settings of the model and of pruning -> the processor."""
    processor_class: Callable[[], type[Processor]]


def family_of(folder: Path) -> Family:
    """The family of a folder. Raises ValueError, listing those there are, for another model."""
    return FAMILIES[read_config(folder)["model_type"]]


def family_on_hub(hub_id: str) -> Family:
    """The family of a model on the hub, of which only config.json is fetched. Raises ValueError as family_of."""
    from transformers.utils import cached_file

    return family_of(Path(cached_file(hub_id, "config.json")).parent)


def _refuse_pixels(spec: ModelSpec, model: str) -> None:
    for name in ("min_pixels", "max_pixels"):
        if getattr(spec, name) is not None:
            raise ValueError(
                f"model.{name} is {getattr(spec, name)}, but {model} takes frames of one size: leave it null"
            )


def _molmo2_class() -> type[PreTrainedModel]:
    from .molmo2 import STTSMolmo2ForConditionalGeneration

    return STTSMolmo2ForConditionalGeneration


def _molmo2_attention(spec: ModelSpec, device: str) -> dict[str, str]:
    from .llm_attention import choose_llm_attention

    return {"text_config": choose_llm_attention(spec.attn_implementation, device)}


def _molmo2_processor(path_or_id: str | PathLike, spec: ModelSpec, stts: STTSConfig) -> Processor:
    from ..data.processors.molmo2 import VideoProcessor

    _refuse_pixels(spec, "a Molmo2")
    return VideoProcessor.from_pretrained(path_or_id, pool_width=stts.for_windows(POOL_WIDTH).pool_width)


def _pruning_class(name: str) -> Callable[[], type[PreTrainedModel]]:
    """Of a class of transformers."""

    def load() -> type[PreTrainedModel]:
        import transformers

        from .classes import pruning

        return pruning(getattr(transformers, name))

    return load


def _any_attention(spec: ModelSpec, device: str) -> str | None:
    return None if spec.attn_implementation == "auto" else spec.attn_implementation


def _processor_class(module: str, name: str) -> type[Processor]:
    """Of stts.data.processors."""
    return getattr(import_module(f"stts.data.processors.{module}"), name)


def _processor(module: str, name: str) -> Callable[..., Processor]:
    """Its from_pretrained, told the bounds on pixels where its frames may be of any size."""

    def load(path_or_id: str | PathLike, spec: ModelSpec, stts: STTSConfig) -> Processor:
        cls = _processor_class(module, name)
        if not hasattr(cls, "frames_type"):
            _refuse_pixels(spec, f"a model of {cls.family}")
            return cls.from_pretrained(path_or_id)
        return cls.from_pretrained(path_or_id, min_pixels=spec.min_pixels, max_pixels=spec.max_pixels)

    return load


def _family(transformers_class: str, module: str, processor: str) -> Family:
    named = (module, processor)
    return Family(
        _pruning_class(transformers_class),
        _any_attention,
        _processor(*named),
        partial(_processor_class, *named),
    )


FAMILIES = {
    "molmo2": Family(
        _molmo2_class,
        _molmo2_attention,
        _molmo2_processor,
        partial(_processor_class, "molmo2", "VideoProcessor"),
    ),
    "qwen3_vl": _family("Qwen3VLForConditionalGeneration", "qwen", "QwenProcessor"),
    "qwen3_5": _family("Qwen3_5ForConditionalGeneration", "qwen", "QwenProcessor"),
    "qwen2_5_vl": _family("Qwen2_5_VLForConditionalGeneration", "qwen2_vl", "Qwen25VLProcessor"),
    "qwen2_vl": _family("Qwen2VLForConditionalGeneration", "qwen2_vl", "Qwen2VLProcessor"),
    "glm4v": _family("Glm4vForConditionalGeneration", "glm4v", "Glm4vProcessor"),
    "glm46v": _family("Glm46VForConditionalGeneration", "glm4v", "Glm46VProcessor"),
    "video_llama_3": _family("VideoLlama3ForConditionalGeneration", "video_llama_3", "VideoLlama3Processor"),
    "llava_onevision": _family("LlavaOnevisionForConditionalGeneration", "llava", "LlavaOnevisionProcessor"),
    "llava_next_video": _family("LlavaNextVideoForConditionalGeneration", "llava", "LlavaNextVideoProcessor"),
    "internvl": _family("InternVLForConditionalGeneration", "internvl", "InternVLProcessor"),
    "smolvlm": _family("SmolVLMForConditionalGeneration", "smolvlm", "SmolVLMProcessor"),
    "idefics3": _family("Idefics3ForConditionalGeneration", "idefics3", "Idefics3Processor"),
    "gemma3": _family("Gemma3ForConditionalGeneration", "gemma3", "Gemma3Processor"),
    "gemma4": _family("Gemma4ForConditionalGeneration", "gemma4", "Gemma4Processor"),
}
"""By the model_type of config.json."""
