"""How Molmo2's videos lie in examples and batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..video.pixels import unpatchify
from .base import Example


class PooledVideos:
    """Videos of square frames of one size, with the patches of each window beside them: see base.VideoForm."""

    packs = True
    unit = None
    unit_frames = 1

    def windows(self, example: Example) -> list[tuple[int, int, int]]:
        """Frames, rows and columns of windows of an example's video, if it has one."""
        return [tuple(grid) for grid in example["video_grids"].tolist()] if "video_grids" in example else []

    def join(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """pixel_values_videos (F, N, values), video_token_pooling (all windows, p*p), which counts the patches of all
        frames together, video_grids (V, 3), and window_scores (F, W) if all have them."""
        examples = [example for example in examples if "video_grids" in example]
        if not examples:
            return {}
        shape = examples[0]["pixel_values_videos"].shape[1:]
        pooling, num_patches = [], 0
        for example in examples:
            pixels, index = example["pixel_values_videos"], example["video_token_pooling"]
            if pixels.shape[1:] != shape:
                raise ValueError(
                    f"example {example['id']!r} has frames of {tuple(pixels.shape[1:])} (patches, values), the "
                    f"batch began with {tuple(shape)}: process all with one VideoProcessor"
                )
            pooling.append(torch.where(index >= 0, index + num_patches, index))
            num_patches += pixels.shape[0] * pixels.shape[1]
        keys = ["pixel_values_videos", "video_grids"]
        keys += ["window_scores"] if all("window_scores" in example for example in examples) else []
        return {
            "video_token_pooling": torch.cat(pooling),
            **{key: torch.cat([example[key] for example in examples]) for key in keys},
        }

    def unit_of(self, example: Example, number: int) -> dict[str, Tensor]:
        """A video of one frame of an example's video."""
        _, rows, cols = self.windows(example)[0]
        return {
            "pixel_values_videos": example["pixel_values_videos"][number : number + 1],
            "video_token_pooling": example["video_token_pooling"][: rows * cols],
            "video_grids": torch.tensor([[1, rows, cols]]),
        }

    def first_video(self, batch: Mapping[str, Any]) -> tuple[np.ndarray, tuple[int, int, int]]:
        """Frames of a batch's first video, (T, S, S, 3) uint8, their number, rows and columns of windows."""
        grid = tuple(batch["video_grids"][0].tolist())
        return unpatchify(batch["pixel_values_videos"][: grid[0]]).cpu().numpy(), grid
