"""Random Qwen3-VLs of known sizes, and a random video with text for them: as presets.py, for that family."""

from __future__ import annotations

from typing import Any

import torch
from presets import ANSWER_TOKENS, TEXT_TOKENS
from torch import nn
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

import stts
from stts import STTSConfig
from stts.hosts import flops_qwen3_vl
from stts.pruning.layout import BatchLayout

TEXT_PER_UNIT = 8
"""Of a timestamp such as "<12.5 seconds>"."""
_IDS = {"vision_start_token_id": 1000, "vision_end_token_id": 1001, "image_token_id": 1002}
_IDS |= {"video_token_id": 1003, "tie_word_embeddings": False}


def _sizes(
    vision: dict[str, Any], text: dict[str, Any], head_dim: int, grid: tuple[int, int]
) -> dict[str, Any]:
    """Sections of a small model, and the patches of a frame that it is measured on."""
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_interleaved": True}
    thirds = [head_dim // 2 - 2 * (head_dim // 6), head_dim // 6, head_dim // 6]
    rope["mrope_section"] = thirds
    text = {"vocab_size": 1016, "max_position_embeddings": 65536, "head_dim": head_dim, **text}
    vision = {"out_hidden_size": text["hidden_size"], **vision}
    sections = {"vision_config": vision, "text_config": text | {"rope_parameters": rope}}
    return {**sections, **_IDS, "grid": grid}


PRESETS = {
    "qwen3-vl-tiny": _sizes(
        {
            "depth": 7,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "deepstack_visual_indexes": [5],
        },
        {
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        },
        12,
        (6, 8),
    ),
    "qwen3-vl-cpu-mid": _sizes(  # frames of 384 x 384, as wide and deep as cpu-mid
        {
            "depth": 12,
            "hidden_size": 192,
            "intermediate_size": 768,
            "num_heads": 4,
            "deepstack_visual_indexes": [5, 7, 9],
        },
        {
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_hidden_layers": 8,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        },
        64,
        (24, 24),
    ),
    "qwen3-vl-cpu-wide": _sizes(  # frames of 256 x 256, as wide as Qwen3-VL-2B but a third and a seventh as deep
        {
            "depth": 9,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_heads": 16,
            "deepstack_visual_indexes": [5, 6, 7],
        },
        {
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 4,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
        },
        128,
        (16, 16),
    ),
}


def preset_config(name: str, config: STTSConfig) -> Qwen3VLConfig:
    """The configuration of a preset, with "grid", the patches of a frame."""
    made = Qwen3VLConfig(**PRESETS[name])
    made.stts = config.for_windows(made.vision_config.spatial_merge_size).to_dict()
    return made


def build_model(
    config: Qwen3VLConfig, device: str, dtype: torch.dtype, attention: str | None = None
) -> nn.Module:
    """Random weights, made on the device in the precision asked for; attention: as transformers."""
    torch.manual_seed(0)
    options = {} if attention is None else {"attn_implementation": attention}
    with torch.device(device):
        return stts.pruning(Qwen3VLForConditionalGeneration)._from_config(config, dtype=dtype, **options)


def make_inputs(config: Qwen3VLConfig, frames: int, device: str) -> dict[str, Any]:
    """One random video of so many frames as the collator hands it over, labels on the last tokens."""
    generator = torch.Generator().manual_seed(frames)
    units, (rows, cols) = frames // 2, config.grid
    vision, unit = config.vision_config, config.vision_config.spatial_merge_size
    windows = rows * cols // unit**2
    words = torch.randint(0, 1000, (units * TEXT_PER_UNIT + TEXT_TOKENS,), generator=generator)
    words = words.split([TEXT_PER_UNIT] * units + [TEXT_TOKENS])
    start, end = torch.tensor([config.vision_start_token_id]), torch.tensor([config.vision_end_token_id])
    shown = torch.cat([start, torch.full((windows,), config.video_token_id), end])
    ids = torch.cat([*(torch.cat([text, shown]) for text in words[:-1]), words[-1]])[None]
    labels = torch.full_like(ids, -100)
    labels[:, -ANSWER_TOKENS:] = ids[:, -ANSWER_TOKENS:]
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    noise = (torch.randint(0, 128, (n, rows * cols, values), generator=generator) for n in (1, units))
    tensors = {
        "input_ids": ids,
        "labels": labels,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == config.video_token_id).long() * 2,
        "pixel_values_videos": sum(noise).byte().flatten(0, 1),  # half stays from one unit to the next
        "video_grid_thw": torch.tensor([[units, rows, cols]]),
    }
    layout = BatchLayout((units,), (ids.shape[1],), (0,), (config.grid,), units * windows)
    return {name: tensor.to(device) for name, tensor in tensors.items()} | {"layout": layout}


def limit(config: Qwen3VLConfig, frames: int, ratio: float, **settings: Any) -> float:
    """How many times less arithmetic the pruned run needs."""
    settings = {"text_tokens": TEXT_TOKENS, "text_per_unit": TEXT_PER_UNIT, **settings}
    return flops_qwen3_vl.limit(config, frames // 2, config.grid, ratio, **settings)
