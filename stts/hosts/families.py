"""What belongs to a model_type of config.json: the class that prunes it, its attention, its processor.

The one table that loading asks. A family is loaded on first use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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


def family_of(folder: Path) -> Family:
    """The family of a folder. Raises ValueError, listing those there are, for another model."""
    return FAMILIES[read_config(folder)["model_type"]]


def family_on_hub(hub_id: str) -> Family:
    """The family of a model on the hub, of which only config.json is fetched. Raises ValueError as family_of."""
    from transformers.utils import cached_file

    return family_of(Path(cached_file(hub_id, "config.json")).parent)


def _molmo2_class() -> type[PreTrainedModel]:
    from .molmo2 import STTSMolmo2ForConditionalGeneration

    return STTSMolmo2ForConditionalGeneration


def _molmo2_attention(spec: ModelSpec, device: str) -> dict[str, str]:
    from .llm_attention import choose_llm_attention

    return {"text_config": choose_llm_attention(spec.attn_implementation, device)}


def _molmo2_processor(path_or_id: str | PathLike, spec: ModelSpec, stts: STTSConfig) -> Processor:
    from ..data.processors.molmo2 import VideoProcessor

    for name in ("min_pixels", "max_pixels"):
        if getattr(spec, name) is not None:
            raise ValueError(
                f"model.{name} is {getattr(spec, name)}, but a Molmo2 takes frames of one size: leave it null"
            )
    return VideoProcessor.from_pretrained(path_or_id, pool_width=stts.for_windows(POOL_WIDTH).pool_width)


def _qwen3_vl_class() -> type[PreTrainedModel]:
    from transformers import Qwen3VLForConditionalGeneration

    from .classes import pruning

    return pruning(Qwen3VLForConditionalGeneration)


def _any_attention(spec: ModelSpec, device: str) -> str | None:
    return None if spec.attn_implementation == "auto" else spec.attn_implementation


def _qwen_processor(path_or_id: str | PathLike, spec: ModelSpec, stts: STTSConfig) -> Processor:
    from ..data.processors.qwen import QwenProcessor

    return QwenProcessor.from_pretrained(path_or_id, min_pixels=spec.min_pixels, max_pixels=spec.max_pixels)


FAMILIES = {
    "molmo2": Family(_molmo2_class, _molmo2_attention, _molmo2_processor),
    "qwen3_vl": Family(_qwen3_vl_class, _any_attention, _qwen_processor),
}
"""By the model_type of config.json."""
