"""The models that can be planned for, all that are loaded by name: their sizes, and batches of videos with no values.

Nothing here is of one family but how much text it writes beside a unit of video, and Molmo2's arithmetic: what a
model is made of is read off the model itself, on the meta device.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig

from ..files.model_folder import BadFolder
from ..hosts import flops, flops_any
from ..hosts.base import Host
from ..hosts.families import FAMILIES, Family
from ..hosts.flops import MultiplyAdds
from ..hosts.folders import ModelSpec, find_folder
from ..pruning.config import STTSConfig
from ..pruning.layout import BatchLayout
from ..pruning.selection import num_dropped
from ..pruning.windows import window_grid
from .sizes import CLIP_PIXELS, SIZES

ANSWER = 8
"""Supervised tokens of a video, where nobody has counted."""
TEXT = 64
"""Tokens of prompt, question and answer."""
TEXT_PER_UNIT = {
    "molmo2": 8,
    "qwen3_vl": 10,
    "qwen3_5": 10,
    "qwen2_5_vl": 0,
    "qwen2_vl": 0,
    "glm4v": 4,
    "glm46v": 7,
    "video_llama_3": 9,
    "llava_onevision": 0,
    "llava_next_video": 0,
    "internvl": 7,
    "smolvlm": 14,
    "idefics3": 3,
    "gemma3": 4,
    "gemma4": 9,
}
"""By model_type: tokens of a unit's time and markers, beside its windows."""


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
    """Rows and columns of patches."""
    text: int = TEXT

    def tokens(self, prune_ratio: float = 0.0) -> int:
        """That the LLM sees."""
        return self.units * self.text_per_unit + self.kept(prune_ratio) + self.text

    def kept(self, prune_ratio: float) -> int:
        """Windows that stay."""
        return self.units * self.windows - num_dropped(self.units, self.windows, prune_ratio)


@dataclass(frozen=True)
class Model:
    """A model without weights."""

    config: PreTrainedConfig
    spec: ModelSpec
    folder: Path | None = None
    """Where its files lie; None: nowhere here."""

    @property
    def family(self) -> Family:
        return FAMILIES[self.config.model_type]

    def build(self, stts: STTSConfig, dtype: torch.dtype) -> nn.Module:
        """The pruning model on the meta device, in training mode, with the attention that a GPU would take."""
        config = deepcopy(self.config)
        config.stts = stts.to_dict()
        attention = self.family.attention(self.spec, "cuda") or "sdpa"
        with torch.device("meta"):
            built = self.family.pruning_class()._from_config(
                config, dtype=dtype, attn_implementation=attention
            )
        return built.train()

    @cached_property
    def host(self) -> Host:
        """Of a model that is only looked at."""
        return self.build(STTSConfig(), torch.bfloat16).host

    @property
    def frames_of_unit(self) -> int:
        return getattr(self.config.vision_config, "temporal_patch_size", 1)

    def shape(self, frames: int, size: tuple[int, int]) -> Shape:
        """Of a video of so many frames. size: height and width in pixels, where frames keep their shape."""
        grid = self.host.frame_grid or self._grid(frames, size)
        rows, cols = window_grid(grid, self.host.unit)
        return Shape(
            -(-frames // self.frames_of_unit), rows * cols, TEXT_PER_UNIT[self.config.model_type], grid
        )

    def _grid(self, frames: int, size: tuple[int, int]) -> tuple[int, int]:
        """As the processor resizes: that of the folder, where it is here."""
        if self.folder:
            patches = self.family.processor(self.folder, self.spec, STTSConfig()).frames
        else:
            known = {
                "patch_size": self.config.vision_config.patch_size,
                "temporal_patch_size": self.frames_of_unit,
                "merge_size": self.host.unit,
                "pooling_kernel_size": self.host.unit,
                "max_pixels": self.spec.max_pixels or CLIP_PIXELS.get(self.config.model_type),
                "min_pixels": self.spec.min_pixels,
            }
            kind = self.family.processor_class().frames_type
            names = [field.name for field in fields(kind) if known.get(field.name) is not None]
            patches = kind(**{name: known[name] for name in names})
        height, width = patches.size(frames, *size)
        return height // patches.patch_size, width // patches.patch_size

    def batch(self, shape: Shape, videos: int) -> dict[str, Any]:
        """So many videos, a row each, as the collator hands them over, on the meta device."""
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
        return text | like(self.host.still(), shape, videos) | {"layout": layout}

    def arithmetic(self, shape: Shape, stts: STTSConfig, logits: int | None) -> MultiplyAdds:
        """Of one video's forward pass. logits: positions the head runs on, None for all."""
        if self.config.model_type == "molmo2":
            config = deepcopy(self.config)
            config.stts = stts.to_dict()
            sizes = {
                "text_tokens": shape.text,
                "text_per_frame": shape.text_per_unit - flops.FRAME_MARKERS,
            }
            return flops.multiply_adds(config, shape.units, stts.prune_ratio, **sizes, logits=logits)
        sizes = {"text_tokens": shape.text, "text_per_unit": shape.text_per_unit}
        asked = (self.host.settle(stts), shape.units, shape.grid, stts.prune_ratio)
        return flops_any.multiply_adds(self.host, *asked, **sizes, logits=logits)


def like(still: dict[str, Tensor], shape: Shape, videos: int) -> dict[str, Any]:
    """So many videos, after a host's smallest one: as many patches, frames, windows and sizes as they have."""
    pixels, *others = still
    frames, x = shape.units * videos, still[pixels]
    patches = shape.grid[0] * shape.grid[1]
    if x.ndim == 2:  # patches in a row
        sizes = (frames * patches, x.shape[1])
    elif x.ndim == 3:  # patches of frames
        sizes = (frames, patches, x.shape[2])
    else:
        sizes = (frames, *x.shape[-3:])
    made: dict[str, Any] = {"pixel_values_videos": torch.empty(sizes, dtype=torch.uint8, device="meta")}
    if x.ndim >= 4:
        made["frames_per_video"] = [shape.units] * videos
    for name in others:
        if name == "video_grid_thw":
            made[name] = torch.tensor([[shape.units, *shape.grid]] * videos)
        elif name == "num_frames_per_video":
            made[name] = torch.tensor([shape.units] * videos)
        elif name == "video_position_ids":
            made[name] = torch.empty(frames, patches, 2, dtype=torch.int64, device="meta")
        elif name == "video_token_pooling":
            made[name] = torch.empty(
                frames * shape.windows, still[name].shape[1], dtype=torch.int64, device="meta"
            )
        else:  # a row each
            made[name] = still[name].repeat(videos, *[1] * (still[name].ndim - 1))
    return made


def find_model(spec: ModelSpec, checkpoint: str | None = None) -> Model:
    """The model that the settings name. Raises ValueError where there is none, or of a family unknown here."""
    if checkpoint is None and spec.path and not Path(spec.path).expanduser().exists():
        return Model(read_config(spec.path), spec)
    folder = find_folder(spec, checkpoint)
    return Model(read_config(str(folder)), spec, folder)


def read_config(path: str) -> PreTrainedConfig:
    """Of a folder, a released model or another on the hub. Raises ValueError for a family that is not known."""
    if path in SIZES and not Path(path).is_dir():
        sizes = dict(SIZES[path])
        return AutoConfig.for_model(sizes.pop("model_type"), **sizes)
    config = AutoConfig.from_pretrained(path)
    if config.model_type not in FAMILIES:
        raise BadFolder(
            f"{path} is a {config.model_type}, must be one of {', '.join(FAMILIES)} to be planned for"
        )
    return config
