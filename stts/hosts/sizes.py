"""How large this library's own models are (tiny.py): one that comes with it, and a larger one for a GPU."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

POOL_WIDTH = 3
"""Side in patches of the windows that one LLM token of a Molmo2 reads."""
HEAD_DIM = 32
"""Width of an attention head, whatever the model's."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a Molmo2; the defaults are those of the tiny model. Raises ValueError, naming the size."""

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

    def __post_init__(self) -> None:
        for name in ("vision_width", "llm_width"):
            if (width := getattr(self, name)) < HEAD_DIM or width % HEAD_DIM:
                raise ValueError(f"{name} is {width}, must be a multiple of {HEAD_DIM}, the width of a head")
        if self.image % self.patch:
            raise ValueError(f"image is {self.image}, must be a multiple of patch {self.patch}")
        if not all(4 <= block < self.vision_blocks for block in self.features):
            raise ValueError(f"features is {self.features}, must be blocks 4 to {self.vision_blocks - 1}")

    def recorded(self) -> dict[str, Any]:
        """What differs from the tiny model, for the record of a folder: of tiny nothing, as in older folders."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if value != getattr(TINY, name)}


TINY = Sizes()
SMALL = Sizes(
    patch=4,
    vision_width=192,
    vision_mlp=768,
    vision_blocks=12,
    features=(11, 8),
    llm_width=256,
    llm_mlp=768,
    llm_layers=6,
)
"""The same clips in patches of half the side: 36 windows a frame, four of them around a shape."""
SIZES = {"tiny": TINY, "small": SMALL}
OWN_MODELS = (*SIZES, "tiny_qwen3_vl")
"""Names of models that are made here and need no path."""
