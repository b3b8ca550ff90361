"""What all pictures share: dimmed windows, bare axes, and files that are whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..files.durable import whole_file

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


def outline_windows(
    frame: np.ndarray, marked: np.ndarray, colour: Sequence[int], width: int = 3
) -> np.ndarray:
    """Draw a line of so many pixels inside every marked window.

    frame: (H, W, 3) uint8; marked: (rows, cols) bool. Returns (H, W, 3) uint8.
    """
    (rows, cols), (height, wide) = marked.shape, frame.shape[:2]
    outlined = frame.copy()
    for row, column in zip(*np.nonzero(marked), strict=True):
        top, bottom = -(-row * height // rows), -(-(row + 1) * height // rows)
        left, right = -(-column * wide // cols), -(-(column + 1) * wide // cols)
        window = outlined[top:bottom, left:right]
        for edge in (window[:width], window[-width:], window[:, :width], window[:, -width:]):
            edge[:] = colour
    return outlined


def spread_evenly(count: int, limit: int) -> np.ndarray:
    """Indices of at most `limit` of `count` things, evenly spaced, both ends included."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(int))


def bare(ax: Axes) -> None:
    """Leave nothing of the axes but what is drawn in them."""
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)


def save_figure(figure: Figure, path: str | os.PathLike, dpi: int = 110) -> Path:
    """Write a figure as PNG, whole or not at all, and let go of it. Returns path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=dpi, format="png")
    plt.close(figure)
    return path
