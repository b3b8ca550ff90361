"""Batches that mix videos, images and text, and each of their examples alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.helpers.molmo2 import (
    IMAGE,
    make_inputs,
)

EXAMPLES = [[7], [1], [IMAGE], [], [IMAGE, 4], [2, IMAGE, 5, IMAGE], [3, 3]]
TEXT = {"input_ids": 0, "attention_mask": 0, "mm_token_type_ids": 0}


def alone(examples: list[list[int | str]] = EXAMPLES) -> list[dict[str, Tensor]]:
    return [make_inputs([items], seed=i, text=4 + 3 * i) for i, items in enumerate(examples)]


def together(singles: list[dict[str, Tensor]], how: str) -> dict[str, Tensor]:
    """One batch: padded on the "left" or "right", or "packed" into one row."""
    lengths = [single["input_ids"].shape[1] for single in singles]
    if how == "packed":
        batch = {key: torch.cat([single[key] for single in singles], 1) for key in TEXT}
        batch["position_ids"] = torch.cat([torch.arange(n) for n in lengths])[None]
        batch["sequence_ids"] = torch.arange(len(singles)).repeat_interleave(torch.tensor(lengths))[None]
    else:
        room = [max(lengths) - n for n in lengths]
        sides = [(0, n) if how == "right" else (n, 0) for n in room]
        batch = {
            key: torch.cat([F.pad(x[key], side, value=fill) for x, side in zip(singles, sides, strict=True)])
            for key, fill in TEXT.items()
        }
    for pixels, pooling, grids in (
        ("pixel_values_videos", "video_token_pooling", "video_grids"),
        ("pixel_values", "image_token_pooling", "image_grids"),
    ):
        having = [single for single in singles if pixels in single]
        starts = torch.tensor([0, *(x[pixels].shape[0] * 36 for x in having)]).cumsum(0)
        if having:
            batch[pixels] = torch.cat([single[pixels] for single in having])
            batch[grids] = torch.cat([single[grids] for single in having])
            index = [
                torch.where(x[pooling] < 0, -1, x[pooling] + n) for x, n in zip(having, starts, strict=False)
            ]
            batch[pooling] = torch.cat(index)
    return batch


def by_example(logits: Tensor, lengths: list[int], how: str) -> list[Tensor]:
    if how == "packed":
        return list(logits[0].split(lengths))
    return [row[:n] if how == "right" else row[-n:] for row, n in zip(logits, lengths, strict=True)]
