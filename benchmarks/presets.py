"""Random models of known sizes, and a random video with text for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Molmo2Config

from stts import STTSConfig, STTSMolmo2ForConditionalGeneration
from stts.hosts.sizes import POOL_WIDTH
from stts.pruning.layout import BatchLayout
from stts.pruning.windows import window_index

TEXT_PER_FRAME, TEXT_TOKENS = 6, 64
"""Of a timestamp such as " 12.5 ", and of prompt, question and answer."""
ANSWER_TOKENS = 8

_SMALL_IDS = {"image_patch_id": 1000, "frame_start_token_id": 1001, "frame_end_token_id": 1002}
_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0}}


def _small(vision: dict[str, Any], text: dict[str, Any], features: list[int]) -> dict[str, Any]:
    """Sections of a small model; heads of one width in ViT and adapter."""
    heads = {
        key: vision[key] for key in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    }
    adapter = {"vision_feature_layer": features, "intermediate_size": text["intermediate_size"]}
    adapter |= heads | {"text_hidden_size": text["hidden_size"]}
    text = {
        "vocab_size": 1000,
        "additional_vocab_size": 16,
        "max_position_embeddings": 65536,
        **_ROPE,
        **text,
    }
    return {"vision_config": vision, "adapter_config": adapter, "text_config": text, **_SMALL_IDS}


def _molmo2(hidden_size: int, intermediate_size: int) -> dict[str, Any]:
    """Released sizes; what is not named is transformers' default. All 384 frames have positions."""
    sizes = {"hidden_size": hidden_size, "intermediate_size": intermediate_size}
    return {
        "vision_config": {},
        "adapter_config": {"intermediate_size": intermediate_size, "text_hidden_size": hidden_size},
        "text_config": {**sizes, "max_position_embeddings": 65536, **_ROPE},
    }


def _heads(dim: int, heads: int) -> dict[str, int]:
    return {
        "hidden_size": dim,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": dim // heads,
    }


PRESETS = {
    "tiny": _small(
        {
            **_heads(32, 2),
            "intermediate_size": 48,
            "num_hidden_layers": 7,
            "image_size": [72, 72],
            "patch_size": 8,
        },
        {
            **_heads(48, 4),
            "head_dim": 16,  # flex attention has no kernel for fewer
            "num_key_value_heads": 2,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
        },
        [6, 4],
    ),
    "cpu-mid": _small(
        {**_heads(192, 4), "intermediate_size": 768, "num_hidden_layers": 12},
        {
            **_heads(256, 4),
            "num_key_value_heads": 2,
            "intermediate_size": 768,
            "num_hidden_layers": 8,
        },
        [11, 8],
    ),
    "cpu-deep": _small(  # as deep as Molmo2-4B, a 40th of its widths
        {**_heads(32, 1), "intermediate_size": 112, "num_hidden_layers": 25},
        {
            **_heads(64, 2),
            "num_key_value_heads": 1,
            "intermediate_size": 240,
            "num_hidden_layers": 36,
        },
        [24, 18],
    ),
    "molmo2_4b": _molmo2(2560, 9728),
    "molmo2_8b": _molmo2(4096, 12288),
}


def preset_config(name: str, stts: STTSConfig) -> Molmo2Config:
    """Raises ValueError for an unknown name."""
    if name not in PRESETS:
        raise ValueError(f"preset is {name!r}, must be one of {', '.join(PRESETS)}")
    config = Molmo2Config(**PRESETS[name])
    config.stts = stts.for_windows(POOL_WIDTH).to_dict()
    return config


def build_model(
    config: Molmo2Config, device: str, dtype: torch.dtype, attention: str | None = None
) -> STTSMolmo2ForConditionalGeneration:
    """Random weights, made on the device in the precision asked for; attention: of the LLM, as transformers."""
    torch.manual_seed(0)
    options = {} if attention is None else {"attn_implementation": attention}
    with torch.device(device):
        return STTSMolmo2ForConditionalGeneration._from_config(config, dtype=dtype, **options)


def make_inputs(config: Molmo2Config, frames: int, device: str) -> dict[str, Any]:
    """One random video as the collator hands it over, labels on the last tokens."""
    generator = torch.Generator().manual_seed(frames)
    vision = config.vision_config
    grid = tuple(side // vision.patch_size for side in vision.image_size)
    windows = window_index(grid, config.stts["pool_width"])
    values = vision.patch_size**2 * vision.num_channels
    ids = _token_ids(config, frames, len(windows), generator)
    labels = torch.full_like(ids, -100)
    labels[:, -ANSWER_TOKENS:] = ids[:, -ANSWER_TOKENS:]
    offsets = torch.arange(frames).view(-1, 1, 1) * (grid[0] * grid[1])
    side = [-(-edge // config.stts["pool_width"]) for edge in grid]
    markers = (config.image_patch_id, config.frame_start_token_id, config.frame_end_token_id)
    tensors = {
        "input_ids": ids,
        "labels": labels,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": torch.isin(ids, torch.tensor(markers)).long(),
        "pixel_values_videos": _video(frames, grid[0] * grid[1], values, generator),
        "video_token_pooling": torch.where(windows >= 0, windows + offsets, -1).flatten(0, 1),
        "video_grids": torch.tensor([[frames, *side]]),
    }
    layout = BatchLayout((frames,), (ids.shape[1],), (0,))
    return {name: tensor.to(device) for name, tensor in tensors.items()} | {"layout": layout}


def _token_ids(config: Molmo2Config, frames: int, windows: int, generator: torch.Generator) -> Tensor:
    """(1, L): a timestamp and the placeholders of each frame, then text."""
    words = torch.randint(0, 1000, (frames * TEXT_PER_FRAME + TEXT_TOKENS,), generator=generator).split(
        [TEXT_PER_FRAME] * frames + [TEXT_TOKENS]
    )
    start, end = torch.tensor([config.frame_start_token_id]), torch.tensor([config.frame_end_token_id])
    frame = torch.cat([start, torch.full((windows,), config.image_patch_id), end])
    return torch.cat([*(torch.cat([text, frame]) for text in words[:-1]), words[-1]])[None]


def _video(frames: int, patches: int, values: int, generator: torch.Generator) -> Tensor:
    """(F, N, values) uint8 noise of which half stays from one frame to the next."""
    still = torch.randint(0, 128, (1, patches, values), generator=generator, dtype=torch.uint8)
    return still + torch.randint(0, 128, (frames, patches, values), generator=generator, dtype=torch.uint8)
