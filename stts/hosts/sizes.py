"""How large the tiny model is (tiny.py)."""

from __future__ import annotations

from dataclasses import dataclass

POOL_WIDTH = 3
"""Side in patches of the windows that one LLM token of a Molmo2 reads."""
HEAD_DIM = 32
"""Width of an attention head, whatever the model's."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a Molmo2; the defaults are those of the tiny model."""

    image: int = 72
    """Side of a frame in pixels: that of the generated clips."""
    patch: int = 8
    """Side of a patch in pixels; 3 x 3 patches are a window."""
    vision_width: int = 64
    vision_mlp: int = 128
    vision_blocks: int = 6
    features: tuple[int, ...] = (5, 4)
    """Zero-based ViT blocks whose output the adapter reads; from block 4 on, which is the first that prunes."""
    llm_width: int = 96
    llm_mlp: int = 192
    """Also the width inside the adapter's projector."""
    llm_layers: int = 3


TINY = Sizes()
SIZES = {"tiny": TINY}
"""Of the tiny Molmo2, by name."""
OWN_MODELS = (*SIZES, "tiny_qwen3_vl")
"""Names of models that are made here and need no path."""
TRAINED = {"tiny": "molmo2", "tiny_qwen3_vl": "qwen3_vl"}
"""Those whose trained weights come with the package, and their families."""
