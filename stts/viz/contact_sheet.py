"""The contact sheet of one video: what was kept, the scores as heat maps, and the share kept over time."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure

from .figure import bare, dim_dropped, save_figure, spread_evenly
from .kept_video import KeptVideo
from .lettering import drawable

HEAT = "inferno"
HEAT_OPACITY = 0.65
BAR, MEAN = "#2a9d8f", "#264653"
COLUMNS = 8

# Inches, all below; positions count from the upper left corner.
WIDEST, NARROWEST, CELL = 12.6, 8.4, 2.0
LEFT, RIGHT, GAP = 0.42, 0.15, 0.07
HEAD, LINE, CAPTION, BLOCK_GAP = 0.25, 0.22, 0.22, 0.12
TIMELINE, TIMELINE_GAP, FOOT, LEGEND = 1.15, 0.42, 0.52, 2.9


def draw_sheet(video: KeptVideo, path: str | os.PathLike, title: str = "", frames: int = 24) -> Path:
    """Draw a video's frames with the dropped windows dark, their scores, and the share kept of every frame.

    title: stands above it, one or several lines; frames: of longer clips so many, evenly spaced, are shown; the
    share is drawn for all of them. Returns path.
    """
    shown, norm = spread_evenly(len(video.keep), frames), heat_norm(video)
    blocks = math.ceil(len(shown) / COLUMNS)
    columns = math.ceil(len(shown) / blocks)
    cell = min(CELL, (WIDEST - LEFT - RIGHT) / columns - GAP)
    height = cell / video.aspect
    block = CAPTION + (1 if norm is None else 2) * (height + GAP) + BLOCK_GAP
    head = HEAD + LINE * len(title.splitlines())
    timeline = head + blocks * block + TIMELINE_GAP
    width = max(NARROWEST, LEFT + RIGHT + columns * (cell + GAP))
    figure = Figure(figsize=(width, timeline + TIMELINE + FOOT))
    for i, t in enumerate(shown):
        row, column = divmod(i, columns)
        x, y = LEFT + column * (cell + GAP), head + row * block + CAPTION
        kept = axes_at(figure, x, y, cell, height)
        draw_frame(kept, dim_dropped(video.pictures[t], video.keep[t]))
        kept.set_title(f"{video.timestamps[t]:.1f} s   {video.shares[t]:.0%}", fontsize=8.5, pad=3)
        kept.set_ylabel("" if column else "kept", fontsize=9)
        if norm is not None:
            score = axes_at(figure, x, y + height + GAP, cell, height)
            draw_frame(score, heat_map(video.pictures[t], video.scores[t], norm))
            score.set_ylabel("" if column else "score", fontsize=9)
    space = RIGHT if norm is None else LEGEND
    draw_shares(axes_at(figure, LEFT + 0.2, timeline, width - LEFT - 0.2 - space, TIMELINE), video)
    if norm is not None:
        draw_legend(axes_at(figure, width - LEGEND + 0.5, timeline + 0.45, LEGEND - 0.9, 0.2), norm)
    draw_title(figure, title)
    return save_figure(figure, path)


def axes_at(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Axes at inches from the upper left corner."""
    across, down = figure.get_size_inches()
    return figure.add_axes((x / across, 1 - (y + height) / down, width / across, height / down))


def draw_title(figure: Figure, title: str) -> None:
    """Write the lines of a title into the upper left corner."""
    across, down = figure.get_size_inches()
    place = LEFT / across, 1 - 0.12 / down
    figure.text(*place, drawable(title), fontsize=11, va="top", linespacing=1.35)


def draw_frame(ax: Axes, picture: np.ndarray) -> None:
    """Fill the axes with a picture, whatever its shape."""
    ax.imshow(picture, aspect="auto", interpolation="antialiased")
    bare(ax)


def heat_norm(video: KeptVideo) -> Normalize | None:
    """Scores -> 0..1 for the colours; the middle is where the line between kept and dropped ran, if it is known.

    The range is that of the frames that compete: the first is always kept, its scores may lie anywhere.
    """
    if video.scores is None:
        return None
    scores = video.scores[1:] if len(video.scores) > 1 else video.scores
    low, high, middle = float(scores.min()), float(scores.max()), video.threshold
    if middle is None or not low < middle < high:
        return Normalize(low, max(high, low + 1e-6), clip=True)
    return TwoSlopeNorm(middle, low, high)


def heat_map(picture: np.ndarray, scores: np.ndarray, norm: Normalize) -> np.ndarray:
    """Scores in colour over the picture in grey: (H, W, 3) uint8 and (rows, cols) -> (H, W, 3) uint8."""
    rows, cols = scores.shape
    y = np.arange(picture.shape[0]) * rows // picture.shape[0]
    x = np.arange(picture.shape[1]) * cols // picture.shape[1]
    colour = colormaps[HEAT](norm(scores))[..., :3][y][:, x] * 255
    grey = picture.mean(-1, keepdims=True)
    return (HEAT_OPACITY * colour + (1 - HEAT_OPACITY) * grey).astype(np.uint8)


def draw_shares(ax: Axes, video: KeptVideo) -> None:
    """A bar a frame: the share of its windows that was kept, over time."""
    times, mean = video.timestamps, video.keep.mean()
    step = np.diff(times).min() if len(times) > 1 else 1.0
    ax.bar(times, video.shares, width=0.86 * step, color=BAR)
    ax.axhline(mean, color=MEAN, linewidth=1, linestyle=(0, (4, 3)))
    ax.set(xlim=(times[0] - step, times[-1] + step), ylim=(0, 1.02), yticks=[0, 0.5, 1])
    ax.set_yticklabels(["0%", "50%", "100%"])
    ax.set_xlabel("seconds", fontsize=9)
    ax.set_title("share kept of each frame", fontsize=9, loc="left", pad=5)
    ax.set_title(f"{mean:.0%} kept of {video.keep.size:,} windows", fontsize=9, loc="right", pad=5)
    ax.tick_params(labelsize=8, length=2)
    ax.spines[["top", "right"]].set_visible(False)


def draw_legend(ax: Axes, norm: Normalize) -> None:
    """What the colours of the heat maps mean, and where the line between kept and dropped ran."""
    bar = ax.figure.colorbar(ScalarMappable(norm, HEAT), cax=ax, orientation="horizontal")
    bar.outline.set_visible(False)
    ax.set_title("score", fontsize=9, loc="left", pad=20 if isinstance(norm, TwoSlopeNorm) else 5)
    ends = [norm.vmin, norm.vmax]
    if isinstance(norm, TwoSlopeNorm):
        ends.insert(1, norm.vcenter)
        ax.axvline(norm.vcenter, color="white", linewidth=1.5)
        for x, side in ((0.25, "dropped"), (0.75, "kept")):
            ax.text(x, 1.2, side, transform=ax.transAxes, fontsize=8.5, ha="center")
    bar.set_ticks(ends, labels=[f"{score:.2g}" for score in ends])
    ax.tick_params(labelsize=8, length=2)
