"""Pictures: which windows survived, frame by frame, and the curves of a run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .data.video.pixels import resize_frames
from .lettering import drawable

MAX_COLUMNS = 12
"""Frames side by side at most; longer clips show evenly spaced ones."""
DIMMED = 0.3
"""Brightness of a dropped window, which also turns blue."""
BLUE = np.array([10, 25, 70])


def dim_dropped(frame: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Darken the dropped windows of one frame and tint them blue.

    frame: (H, W, 3) uint8; keep: (rows, cols) bool, True = kept. Returns (H, W, 3) uint8.
    """
    rows, cols = keep.shape
    y = np.arange(frame.shape[0]) * rows // frame.shape[0]
    x = np.arange(frame.shape[1]) * cols // frame.shape[1]
    dimmed = frame.mean(-1, keepdims=True) * DIMMED + BLUE
    return np.where(keep[y][:, x][..., None], frame, dimmed).astype(np.uint8)


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


def draw_curves(
    metrics: str | os.PathLike, path: str | os.PathLike, evaluations: str | os.PathLike | None = None
) -> Path:
    """Draw a run's metrics.jsonl: losses, scores and targets, kept share and churn, over steps. Returns path.

    evaluations: the run's eval.jsonl; where it has rows, their accuracy is drawn, too.
    """
    files = [Path(file) for file in (metrics, evaluations) if file is not None and Path(file).exists()]
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    panels = [
        ("lm_loss", "aux_loss"),
        ("score_mean", "score_std", "target_mean", "target_std"),
        ("kept", "churn"),
    ]
    if any("accuracy" in row for row in rows):
        panels.insert(1, ("accuracy",))
    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3), layout="constrained")
    for ax, names in zip(axes, panels, strict=True):
        for name in names:
            points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
            if points:
                ax.plot(*zip(*points, strict=True), label=name, linewidth=1.2)
        ax.set_xlabel("step")
        ax.set_ylim(bottom=0)
        ax.spines[["top", "right"]].set_visible(False)
        if ax.lines:
            ax.legend(frameon=False)
    return save_figure(figure, path)


def spread_evenly(count: int, limit: int) -> np.ndarray:
    """Indices of at most `limit` of `count` things, evenly spaced, both ends included."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(int))


def bare(ax: Axes) -> None:
    """Leave nothing of the axes but what is drawn in them."""
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)


def _outline(ax: Axes, marked: np.ndarray, size: int) -> None:
    """A frame around every marked window."""
    height, width = size / marked.shape[0], size / marked.shape[1]
    for r, c in zip(*np.nonzero(marked), strict=True):
        corner = (c * width - 0.5, r * height - 0.5)
        ax.add_patch(Rectangle(corner, width, height, fill=False, edgecolor="#ffd60a", linewidth=1.5))


def save_figure(figure: Figure, path: str | os.PathLike, dpi: int = 110) -> Path:
    """Write a figure as PNG, whole or not at all, and let go of it. Returns path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    figure.savefig(partial, dpi=dpi, format="png")
    plt.close(figure)
    partial.replace(path)
    return path
