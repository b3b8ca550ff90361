"""A random Molmo2 small enough for unit tests, and inputs for it as transformers takes them."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Molmo2Config

from stts.pruning.windows import window_index

PATCH_ID, FRAME_START, FRAME_END, IMAGE_START, IMAGE_END = 50, 51, 52, 53, 54
IMAGE = "image"
"""An item of a row: an image of a whole view and two crops, 2 x 2 and 4 x 2 windows of 4 x 4 patches."""


def tiny_config(grid: int = 6, blocks: int = 7, feature_layers: tuple[int, ...] = (6, 4)) -> Molmo2Config:
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": blocks,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "image_size": [4 * grid, 4 * grid],
        "patch_size": 4,
        "initializer_range": 0.1,
    }
    adapter = {
        "vision_feature_layer": list(feature_layers),
        "hidden_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 40,
        "text_hidden_size": 48,
        "initializer_range": 0.1,
    }
    text = {
        "hidden_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "initializer_range": 0.1,
        "vocab_size": 48,
        "additional_vocab_size": 16,
        "num_hidden_layers": 3,
        "intermediate_size": 64,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }
    ids = {
        "image_patch_id": PATCH_ID,
        "frame_start_token_id": FRAME_START,
        "frame_end_token_id": FRAME_END,
        "image_start_token_id": IMAGE_START,
        "low_res_image_start_token_id": IMAGE_START,
        "image_end_token_id": IMAGE_END,
    }
    return Molmo2Config(vision_config=vision, adapter_config=adapter, text_config=text, **ids)


def make_inputs(
    rows: list[list[int | str]],
    grid: int = 6,
    pool: int = 3,
    seed: int = 0,
    pad: str = "right",
    text: int = 5,
) -> dict[str, Tensor]:
    """rows: frames of each video of each row, or IMAGE. Text of varying length stands around them."""
    generator = torch.Generator().manual_seed(seed)
    windows = window_index((grid, grid), pool)
    sequences, types = [], []
    for r, items in enumerate(rows):
        ids = _words(3 + r, generator)
        kinds = [0] * len(ids)
        for item in items:
            if item == IMAGE:
                ids += [2, IMAGE_START, *[PATCH_ID] * 4, IMAGE_END, IMAGE_START, *[PATCH_ID] * 8, IMAGE_END]
                kinds += [0] + [1] * 16
                continue
            for _ in range(item):
                ids += [*_words(2, generator), FRAME_START, *[PATCH_ID] * len(windows), FRAME_END]
                kinds += [0, 0] + [1] * (len(windows) + 2)
        ids += _words(text + r, generator)
        kinds += [0] * (text + r)
        sequences.append(ids)
        types.append(kinds)
    length = max(map(len, sequences))
    frames = [item for items in rows for item in items if item != IMAGE]
    inputs = {
        "input_ids": _pad(sequences, length, 0, pad),
        "attention_mask": _pad([[1] * len(s) for s in sequences], length, 0, pad),
        "mm_token_type_ids": _pad(types, length, 0, pad),
    }
    if frames:
        offsets = torch.arange(sum(frames)).view(-1, 1, 1) * grid * grid
        pooling = torch.where(windows >= 0, windows + offsets, -1).flatten(0, 1)
        side = -(-grid // pool)
        inputs["pixel_values_videos"] = _video(frames, grid, generator)
        inputs["video_token_pooling"] = pooling
        inputs["video_grids"] = torch.tensor([[t, side, side] for t in frames])
    return inputs | _images(sum(items.count(IMAGE) for items in rows), grid, generator)


def _images(count: int, grid: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Of each image a whole view and two crops, one below the other, pooled 4 x 4 with a padded edge."""
    if not count:
        return {}
    windows = window_index((grid, grid), 4)  # 2 x 2 of 16, some -1
    crops = torch.arange(3 * count).view(-1, 1, 1) * grid * grid
    return {
        "pixel_values": torch.randn(3 * count, grid * grid, 48, generator=generator),
        "image_token_pooling": torch.where(windows >= 0, windows + crops, -1).flatten(0, 1),
        "image_grids": torch.tensor([[2, 2, 4, 2]] * count),
        "image_num_crops": torch.tensor([3] * count),
    }


def _words(n: int, generator: torch.Generator) -> list[int]:
    return torch.randint(1, 48, (n,), generator=generator).tolist()


def _pad(rows: list[list[int]], length: int, fill: int, side: str) -> Tensor:
    pads = [[fill] * (length - len(r)) for r in rows]
    return torch.tensor([r + p if side == "right" else p + r for r, p in zip(rows, pads, strict=True)])


def _video(frames: list[int], grid: int, generator: torch.Generator) -> Tensor:
    """Frames that change a little from one to the next: (F, N, 4 * 4 * 3)."""
    videos = []
    for t in frames:
        steps = torch.randn(t, grid * grid, 48, generator=generator)
        steps[1:] *= 0.5
        videos.append(steps.cumsum(0))
    return torch.cat(videos)
