"""Spatio-Temporal Token Scoring for video vision-language models (arXiv 2603.18004).

Shapes in this package: B batch, F frames of all videos together, T frames of one video, N patches per frame,
W windows per frame, p pool width, D width, K kept, L tokens of a row. Masks are True where something is kept.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass
    from .chat import answer, load
    from .hosts.molmo2 import STTSMolmo2ForConditionalGeneration
    from .hosts.vision import insert_stts
    from .pruning.config import STTSConfig
    from .pruning.losses import temporal_aux_loss
    from .pruning.scorer import STTSScorer
    from .pruning.selection import attention_bias, prune_tokens, select_windows

__version__ = "0.1.0"

__all__ = [
    "STTSConfig",
    "STTSMolmo2ForConditionalGeneration",
    "STTSScorer",
    "answer",
    "attention_bias",
    "data",
    "insert_stts",
    "load",
    "prune_tokens",
    "select_windows",
    "temporal_aux_loss",
]

_HOME = {
    "STTSConfig": "pruning.config",
    "STTSMolmo2ForConditionalGeneration": "hosts.molmo2",
    "STTSScorer": "pruning.scorer",
    "answer": "chat",
    "attention_bias": "pruning.selection",
    "insert_stts": "hosts.vision",
    "load": "chat",
    "prune_tokens": "pruning.selection",
    "select_windows": "pruning.selection",
    "temporal_aux_loss": "pruning.losses",
}


def __getattr__(name: str) -> Any:
    # Names load on first use: checking a configuration must not wait for torch and transformers.
    if name == "data":
        return importlib.import_module(".data", __name__)
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
