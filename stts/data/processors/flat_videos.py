"""How videos of any size lie in examples and batches: patch after patch, with their grids beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .base import Example
from .merge_units import unpatchify


@dataclass(frozen=True)
class FlatVideos:
    """See base.VideoForm."""

    unit: int = 2
    unit_frames: int = 2
    beside: tuple[str, ...] = ()
    """Further tensors of an example, an entry a video."""
    packs = False  # positions have three axes, which the model counts row by row

    def windows(self, example: Example) -> list[tuple[int, int, int]]:
        """Units, rows and columns of windows of an example's video, if it has one."""
        if "video_grid_thw" not in example:
            return []
        return [(t, h // self.unit, w // self.unit) for t, h, w in example["video_grid_thw"].tolist()]

    def join(self, examples: Sequence[Example]) -> dict[str, Any]:
        """pixel_values_videos (S, values), video_grid_thw (V, 3), what is beside them (V,); if all have them
        window_scores, (F, W) where all frames have as many windows, else (T, W) of each video."""
        examples = [example for example in examples if "video_grid_thw" in example]
        if not examples:
            return {}
        keys = ("pixel_values_videos", "video_grid_thw", *self.beside)
        batch = {key: torch.cat([example[key] for example in examples]) for key in keys}
        return batch | joined_scores(examples)

    def unit_of(self, example: Example, number: int) -> dict[str, Tensor]:
        """A video of one unit of an example's video."""
        _, rows, cols = example["video_grid_thw"][0].tolist()
        size = rows * cols
        return {
            "pixel_values_videos": example["pixel_values_videos"][number * size : (number + 1) * size],
            "video_grid_thw": torch.tensor([[1, rows, cols]]),
            **{key: example[key] for key in self.beside},
        }

    def first_video(self, batch: Mapping[str, Any]) -> tuple[np.ndarray, tuple[int, int, int]]:
        """The first frame of each unit of a batch's first video, (T, H, W, 3) uint8, and the video's windows."""
        units, rows, cols = grid = self.windows({"video_grid_thw": batch["video_grid_thw"][:1]})[0]
        patches = batch["pixel_values_videos"][: units * rows * cols * self.unit**2]
        frames = unpatchify(patches, grid, self.unit, self.unit_frames)
        return frames[:, 0].cpu().numpy(), grid


def joined_scores(examples: Sequence[Example]) -> dict[str, Any]:
    """window_scores of a batch, if all examples have them."""
    if not all("window_scores" in example for example in examples):
        return {}
    scores = [example["window_scores"] for example in examples]
    return {"window_scores": torch.cat(scores) if len({x.shape[1] for x in scores}) == 1 else scores}
