"""The film of one video: as it is, what was kept of it, the scores, and the share kept over time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..data.video.encode import write_video
from .contact_sheet import LEFT, LINE, axes_at, draw_frame, draw_shares, draw_title, heat_map, heat_norm
from .figure import dim_dropped
from .kept_video import KeptVideo

DPI = 100
PANEL = (4.0, 3.0)
"""Widest and highest a panel may be, in inches, as are all lengths below."""
HEAD, GAP, RIGHT, FOOT = 0.6, 0.12, 0.3, 1.6


def write_film(video: KeptVideo, path: str | os.PathLike, title: str = "", fps: float = 4.0) -> Path:
    """Write an mp4: every frame the model saw beside what it kept of it and, where there are any, the scores.

    title: stands above it; fps: frames a second of the mp4, however far apart they lie in the video. Returns
    path, which is there in full or not at all.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, render_frames(video, title), fps=fps, qp=20)
    return path


def render_frames(video: KeptVideo, title: str = "") -> Iterator[np.ndarray]:
    """The frames of the mp4: (H, W, 3) uint8, of one even size."""
    norm = heat_norm(video)
    figure, panels, timeline = _lay_out(video, 2 if norm is None else 3, HEAD + LINE * title.count("\n"))
    canvas = FigureCanvasAgg(figure)
    draw_title(figure, title)
    draw_shares(timeline, video)
    cursor = timeline.axvline(video.timestamps[0], color="#e76f51", linewidth=2)
    for t, picture in enumerate(video.pictures):
        shown = {f"{video.timestamps[t]:.1f} s": picture}
        shown[f"kept: {video.shares[t]:.0%}"] = dim_dropped(picture, video.keep[t])
        if norm is not None:
            shown["score"] = heat_map(picture, video.scores[t], norm)
        for ax, (caption, pixels) in zip(panels, shown.items(), strict=True):
            ax.clear()
            draw_frame(ax, pixels)
            ax.set_title(caption, fontsize=10, loc="left", pad=4)
        cursor.set_xdata([video.timestamps[t]] * 2)
        canvas.draw()
        yield np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _lay_out(video: KeptVideo, count: int, head: float) -> tuple[Figure, list[Axes], Axes]:
    """A figure of a whole, even number of pixels: panels side by side, the timeline below them."""
    width = min(PANEL[0], PANEL[1] * video.aspect)
    height = width / video.aspect
    total = _even(LEFT + RIGHT + count * (width + GAP) - GAP)
    figure = Figure(figsize=(total, _even(head + height + FOOT)), dpi=DPI)
    panels = [axes_at(figure, LEFT + i * (width + GAP), head, width, height) for i in range(count)]
    left, top = LEFT + 0.25, head + height + 0.45
    timeline = axes_at(figure, left, top, total - left - RIGHT, FOOT - 0.45 - 0.5)
    return figure, panels, timeline


def _even(inches: float) -> float:
    """H.264 wants an even number of pixels."""
    return round(inches * DPI / 2) * 2 / DPI
