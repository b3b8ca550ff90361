"""Frames of a video with the windows that were dropped dark, a row for each policy."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from ..data.processors.base import VideoForm
from ..data.processors.pooled_videos import PooledVideos
from ..data.video.pixels import resize_frames
from .figure import bare, dim_dropped, save_figure, spread_evenly
from .lettering import drawable

MAX_COLUMNS = 12
"""Frames side by side at most; longer clips show evenly spaced ones."""


def draw_kept(
    frames: np.ndarray,
    keeps: Mapping[str, np.ndarray],
    path: str | os.PathLike,
    timestamps: Sequence[float] | None = None,
    evidence: np.ndarray | None = None,
    title: str = "",
    size: int = 192,
) -> Path:
    """Draw what each policy kept of one clip: a row per policy, a column per frame, dropped windows dark.

    frames: (T, H, W, 3) uint8; keeps: name of a policy -> (T, rows, cols) bool; timestamps: (T,) seconds;
    evidence: (T, rows, cols) bool, outlined. The share of windows kept stands over each frame. Returns path.
    """
    shown = spread_evenly(len(frames), MAX_COLUMNS)
    frames = resize_frames(frames[shown], size)
    figure, axes = plt.subplots(
        len(keeps),
        len(shown),
        figsize=(1.3 * len(shown) + 0.9, 1.55 * len(keeps) + (0.5 if title else 0.15)),
        squeeze=False,
        layout="constrained",
    )
    for row, (name, keep) in zip(axes, keeps.items(), strict=True):
        for ax, t, frame in zip(row, shown, frames, strict=True):
            ax.imshow(dim_dropped(frame, keep[t]))
            bare(ax)
            seconds = "" if timestamps is None else f"{timestamps[t]:.1f} s  "
            ax.set_title(f"{seconds}{keep[t].mean():.0%}", fontsize=7, pad=2)
            if evidence is not None:
                _outline(ax, evidence[t], size)
        row[0].set_ylabel(f"{drawable(name)}\n{keep.mean():.0%} kept", fontsize=9)
    if title:
        figure.suptitle(drawable(title), fontsize=10)
    return save_figure(figure, path)


def _outline(ax: Axes, marked: np.ndarray, size: int) -> None:
    """A frame around every marked window."""
    height, width = size / marked.shape[0], size / marked.shape[1]
    for r, c in zip(*np.nonzero(marked), strict=True):
        corner = (c * width - 0.5, r * height - 0.5)
        ax.add_patch(Rectangle(corner, width, height, fill=False, edgecolor="#ffd60a", linewidth=1.5))


def first_video(
    batch: dict[str, Any], keep_windows: Tensor | list[Tensor], form: VideoForm | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T, H, W, 3) uint8 of a batch's first video and what was kept of it, (T, rows, cols) bool.

    keep_windows: (F, W) bool over all frames of the batch, or (T, W) of each video, as the model returns it; form:
    that of the processor; None: Molmo2's.
    """
    frames, grid = (form or PooledVideos()).first_video(batch)
    keep = keep_windows[0] if isinstance(keep_windows, list) else keep_windows[: grid[0]]
    return frames, keep.cpu().numpy().reshape(grid)


def draw_batch(
    batch: dict[str, Any],
    keep_windows: Tensor | list[Tensor] | None,
    name: str,
    path: Path,
    form: VideoForm | None = None,
) -> Path | None:
    """Draw what a policy (name) kept of a batch's first video; returns path, None when nothing was pruned."""
    if keep_windows is None or "pixel_values_videos" not in batch:
        return None
    frames, keep = first_video(batch, keep_windows, form)
    # else whose the first video is, is not known
    all_have_one = len(batch["ids"]) == len(batch["layout"].frames_per_video)
    return draw_kept(frames, {name: keep}, path, title=str(batch["ids"][0]) if all_have_one else "")
