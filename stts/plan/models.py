"""The models that can be planned for: their sizes, known by name, and a batch of one video with no values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig

from ..files.model_folder import BadFolder
from ..hosts import flops, flops_qwen3_vl
from ..hosts.flops import MultiplyAdds
from ..hosts.folders import ModelSpec, find_folder
from ..hosts.llm_attention import BLOCK_SPARSE
from ..pruning.config import STTSConfig
from ..pruning.layout import BatchLayout
from ..pruning.selection import num_dropped

ANSWER = 8
"""Supervised tokens of a video, where nobody has counted."""
TEXT = 64
"""Tokens of prompt, question and answer."""


@dataclass(frozen=True)
class Shape:
    """One video as a model sees it."""

    units: int
    """Frames, or pairs of them."""
    windows: int
    """Of a unit."""
    text_per_unit: int
    """Its timestamp and markers."""
    grid: tuple[int, int]
    text: int = TEXT

    def tokens(self, prune_ratio: float = 0.0) -> int:
        """That the LLM sees."""
        dropped = num_dropped(self.units, self.windows, prune_ratio)
        return self.units * (self.windows + self.text_per_unit) - dropped + self.text


def _molmo2(hidden_size: int, intermediate_size: int) -> dict[str, Any]:
    sizes = {"hidden_size": hidden_size, "intermediate_size": intermediate_size}
    adapter = {"intermediate_size": intermediate_size, "text_hidden_size": hidden_size}
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0}}
    return {"model_type": "molmo2", "adapter_config": adapter, "text_config": sizes | rope}


def _qwen3_vl(
    depth: int, vision: int, mlp: int, marks: list[int], llm: dict[str, int], tied: bool
) -> dict[str, Any]:
    vision_config = {
        "depth": depth,
        "hidden_size": vision,
        "intermediate_size": mlp,
        "num_heads": 16,
        "deepstack_visual_indexes": marks,
        "out_hidden_size": llm["hidden_size"],
    }
    rope = {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_section": [24, 20, 20],
        "mrope_interleaved": True,
    }
    text = {"vocab_size": 151936, "num_key_value_heads": 8, "head_dim": 128, "rope_parameters": rope, **llm}
    return {
        "model_type": "qwen3_vl",
        "vision_config": vision_config,
        "text_config": text,
        "tie_word_embeddings": tied,
    }


def _llm(hidden_size: int, intermediate_size: int, num_hidden_layers: int, heads: int) -> dict[str, int]:
    return {
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": heads,
    }


SIZES = {
    "allenai/Molmo2-4B": _molmo2(2560, 9728),
    "allenai/Molmo2-8B": _molmo2(4096, 12288),
    "Qwen/Qwen3-VL-2B-Instruct": _qwen3_vl(24, 1024, 4096, [5, 11, 17], _llm(2048, 6144, 28, 16), True),
    "Qwen/Qwen3-VL-4B-Instruct": _qwen3_vl(24, 1024, 4096, [5, 11, 17], _llm(2560, 9728, 36, 32), True),
    "Qwen/Qwen3-VL-8B-Instruct": _qwen3_vl(27, 1152, 4304, [8, 16, 24], _llm(4096, 12288, 36, 32), False),
}
"""As released, so that nothing has to be fetched."""


def read_config(path: str) -> PreTrainedConfig:
    """Of a folder, a released model or another on the hub. Raises ValueError for a family that is not planned for."""
    if path in SIZES and not Path(path).is_dir():
        sizes = dict(SIZES[path])
        config = AutoConfig.for_model(sizes.pop("model_type"), **sizes)
    else:
        config = AutoConfig.from_pretrained(path)
    if config.model_type not in FAMILIES:
        raise BadFolder(
            f"{path} is a {config.model_type}, must be one of {', '.join(FAMILIES)} to be planned for"
        )
    return config


def config_of(spec: ModelSpec, checkpoint: str | None = None) -> PreTrainedConfig:
    """The sizes of the model that the settings name. Raises ValueError where there is none."""
    if checkpoint is None and spec.path in SIZES:
        return read_config(spec.path)
    if checkpoint is None and spec.path and not Path(spec.path).expanduser().exists():
        return read_config(spec.path)
    return read_config(str(find_folder(spec, checkpoint)))


def build(config: PreTrainedConfig, stts: STTSConfig, dtype: torch.dtype) -> nn.Module:
    """The pruning model on the meta device, in training mode."""
    import transformers

    import stts as library

    name = FAMILIES[config.model_type].transformers_class
    config.stts = stts.to_dict()
    options = {"attn_implementation": BLOCK_SPARSE if config.model_type == "molmo2" else "sdpa"}
    with torch.device("meta"):
        return (
            library.pruning(getattr(transformers, name))._from_config(config, dtype=dtype, **options).train()
        )


@dataclass(frozen=True)
class Family:
    """How a kind of model is planned for."""

    transformers_class: str
    shape: Callable[[PreTrainedConfig, int], Shape]
    batch: Callable[[PreTrainedConfig, Shape, int], dict[str, Tensor]]
    """(config, shape, videos) -> pixels and what belongs to them."""
    arithmetic: Callable[..., MultiplyAdds]
    """(config, shape, prune_ratio, logits) of one video, forward and backward."""
    frames_of_unit: Callable[[PreTrainedConfig], int]


def make_batch(config: PreTrainedConfig, shape: Shape, videos: int) -> dict[str, Any]:
    """A batch of so many videos, a row each, as the collator hands it over, on the meta device."""
    family = FAMILIES[config.model_type]
    length = shape.tokens()
    names = ("input_ids", "labels", "attention_mask", "mm_token_type_ids")
    text = {name: torch.empty(videos, length, dtype=torch.int64, device="meta") for name in names}
    layout = BatchLayout(
        (shape.units,) * videos,
        (length,) * videos,
        tuple(range(videos)),
        (shape.grid,) * videos,
        shape.units * shape.windows * videos,
    )
    return text | family.batch(config, shape, videos) | {"layout": layout}


def _molmo2_shape(config: PreTrainedConfig, frames: int) -> Shape:
    vision = config.vision_config
    grid = tuple(side // vision.patch_size for side in vision.image_size)
    return Shape(frames, -(-grid[0] // 3) * -(-grid[1] // 3), 6 + flops.FRAME_MARKERS, grid)


def _molmo2_batch(config: PreTrainedConfig, shape: Shape, videos: int) -> dict[str, Tensor]:
    values, patches = config.vision_config.patch_size**2 * 3, shape.grid[0] * shape.grid[1]
    frames = shape.units * videos
    return {
        "pixel_values_videos": torch.empty(frames, patches, values, dtype=torch.uint8, device="meta"),
        "video_token_pooling": torch.empty(frames * shape.windows, 9, dtype=torch.int64, device="meta"),
        "video_grids": torch.empty(videos, 3, dtype=torch.int64, device="meta"),
    }


def _molmo2_arithmetic(
    config: PreTrainedConfig, shape: Shape, ratio: float, logits: int | None
) -> MultiplyAdds:
    sizes = {"text_tokens": shape.text, "text_per_frame": shape.text_per_unit - flops.FRAME_MARKERS}
    return flops.multiply_adds(config, shape.units, ratio, **sizes, logits=logits, backward=True)


QWEN_GRID = (24, 42)
"""Patches of a frame of a wide video of 128 frames under Qwen3-VL's bound on the pixels of a clip."""


def _qwen_shape(config: PreTrainedConfig, frames: int) -> Shape:
    vision = config.vision_config
    rows, cols = getattr(config, "grid", QWEN_GRID)
    windows = rows * cols // vision.spatial_merge_size**2
    return Shape(
        -(-frames // vision.temporal_patch_size), windows, 8 + flops_qwen3_vl.UNIT_MARKERS, (rows, cols)
    )


def _qwen_batch(config: PreTrainedConfig, shape: Shape, videos: int) -> dict[str, Tensor]:
    vision = config.vision_config
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    patches = shape.units * shape.grid[0] * shape.grid[1] * videos
    return {
        "pixel_values_videos": torch.empty(patches, values, dtype=torch.uint8, device="meta"),
        "video_grid_thw": torch.tensor([[shape.units, *shape.grid]] * videos),
    }


def _qwen_arithmetic(
    config: PreTrainedConfig, shape: Shape, ratio: float, logits: int | None
) -> MultiplyAdds:
    sizes = {"text_tokens": shape.text, "text_per_unit": shape.text_per_unit - flops_qwen3_vl.UNIT_MARKERS}
    return flops_qwen3_vl.multiply_adds(
        config, shape.units, shape.grid, ratio, **sizes, logits=logits, backward=True
    )


FAMILIES = {
    "molmo2": Family(
        "Molmo2ForConditionalGeneration", _molmo2_shape, _molmo2_batch, _molmo2_arithmetic, lambda _: 1
    ),
    "qwen3_vl": Family(
        "Qwen3VLForConditionalGeneration",
        _qwen_shape,
        _qwen_batch,
        _qwen_arithmetic,
        lambda config: config.vision_config.temporal_patch_size,
    ),
}
"""By model_type."""
