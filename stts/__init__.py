"""Spatio-Temporal Token Scoring for video vision-language models (arXiv 2603.18004).

Shapes in this package: B batch, F frames of all videos together, T frames of one video, N patches per frame,
W windows per frame, p pool width, D width, K kept, L tokens of a row. Masks are True where something is kept.

Names load on first use: checking a configuration must not wait for torch and transformers.
"""

from typing import TYPE_CHECKING

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["data", "pruning"],  # the latter is called like a function, too
    submod_attrs={
        "chat": ["answer", "load"],
        "hosts.classes": ["insert_stts", "remove_stts"],
        "hosts.molmo2": ["STTSMolmo2ForConditionalGeneration"],
        "pruning.config": ["STTSConfig"],
        "pruning.losses": ["temporal_aux_loss"],
        "pruning.scorer": ["STTSScorer"],
        "pruning.selection": ["attention_bias", "prune_tokens", "select_windows"],
    },
)

if TYPE_CHECKING:
    from . import data as data
    from . import pruning as pruning
    from .chat import answer as answer
    from .chat import load as load
    from .hosts.classes import insert_stts as insert_stts
    from .hosts.classes import remove_stts as remove_stts
    from .hosts.molmo2 import STTSMolmo2ForConditionalGeneration as STTSMolmo2ForConditionalGeneration
    from .pruning.config import STTSConfig as STTSConfig
    from .pruning.losses import temporal_aux_loss as temporal_aux_loss
    from .pruning.scorer import STTSScorer as STTSScorer
    from .pruning.selection import attention_bias as attention_bias
    from .pruning.selection import prune_tokens as prune_tokens
    from .pruning.selection import select_windows as select_windows
