"""Pictures of what was kept, taken from a training batch as it went through the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from .data.video.pixels import unpatchify


def first_video(batch: dict[str, Any], keep_windows: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T, S, S, 3) uint8 of a batch's first video and what was kept of it, (T, rows, cols) bool.

    keep_windows: (F, W) bool over all frames of the batch, as the model returns it.
    """
    frames, rows, cols = batch["video_grids"][0].tolist()
    keep = keep_windows[:frames].cpu().numpy().reshape(frames, rows, cols)
    return unpatchify(batch["pixel_values_videos"][:frames]).cpu().numpy(), keep


def draw_batch(batch: dict[str, Any], keep_windows: Tensor | None, name: str, path: Path) -> Path | None:
    """Draw what a policy (name) kept of a batch's first video; returns path, None when nothing was pruned."""
    if keep_windows is None or "video_grids" not in batch:
        return None
    from .visualize import draw_kept

    frames, keep = first_video(batch, keep_windows)
    all_have_one = len(batch["ids"]) == len(
        batch["video_grids"]
    )  # else whose the first video is, is not known
    return draw_kept(frames, {name: keep}, path, title=str(batch["ids"][0]) if all_have_one else "")
