"""From files on disk to what the model takes: decode, process, collate."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .datasets import Mixture, VideoQADataset, training_data
    from .feed.collator import Collator
    from .load import load_data, prepare_data
    from .processors.molmo2 import VideoProcessor
    from .prompts import multiple_choice_prompt
    from .spec import DataSpec
    from .video.decode import VideoError
    from .video.read import Clip, read_video, write_video

__all__ = [
    "Clip",
    "Collator",
    "DataSpec",
    "Mixture",
    "VideoError",
    "VideoProcessor",
    "VideoQADataset",
    "load_data",
    "multiple_choice_prompt",
    "prepare_data",
    "read_video",
    "training_data",
    "write_video",
]

_HOME = {
    "Clip": "video.read",
    "Collator": "feed.collator",
    "DataSpec": "spec",
    "Mixture": "datasets",
    "VideoError": "video.decode",
    "VideoProcessor": "processors.molmo2",
    "VideoQADataset": "datasets",
    "load_data": "load",
    "multiple_choice_prompt": "prompts",
    "prepare_data": "load",
    "read_video": "video.read",
    "training_data": "datasets",
    "write_video": "video.read",
}


def __getattr__(name: str) -> Any:
    # Names load on first use: settings and annotations are checked before torch and transformers are there.
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
