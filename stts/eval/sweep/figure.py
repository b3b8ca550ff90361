"""The picture of a sweep: accuracy over seconds per video and over visual tokens, with what nothing beats."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ...viz.figure import save_figure
from ...viz.lettering import drawable
from .pareto import COSTS, Point, frontier_by

LABELS = {"seconds": "seconds per video", "visual_tokens": "visual tokens per video"}
DASHES = ("-", "--", ":", "-.")
FRONTIER = "#c9c9c9"


def draw_sweep(points: Sequence[Point], path: str | os.PathLike, title: str = "") -> Path:
    """Draw a panel for each cost: a line a prune ratio, a point a frame count, with 95 % intervals.

    The grey staircase runs through the points that no other beats at their cost. Returns path.
    """
    figure = Figure(figsize=(11.5, 4.6), layout="constrained")
    axes = figure.subplots(1, len(COSTS), sharey=True)
    for ax, by in zip(axes, COSTS, strict=True):
        _draw_frontier(ax, frontier_by(points, by), by)
        for label, line, colour, dash in _lines(points):
            _draw_line(ax, line, by, label, colour, dash)
        _set_axis(ax, by)
    axes[0].set_ylabel("accuracy")
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    if title:
        figure.suptitle(drawable(title), fontsize=11)
    return save_figure(figure, path, dpi=130)


def _lines(points: Sequence[Point]) -> list[tuple[str, list[Point], object, str]]:
    """(label, points by frames, colour, dashes): a colour for each ratio, dashes for each policy."""
    ratios = sorted({point.prune_ratio for point in points})
    policies = list(dict.fromkeys(point.policy for point in points if point.prune_ratio))
    found = []
    for policy, ratio in dict.fromkeys((point.policy, point.prune_ratio) for point in points):
        line = [point for point in points if (point.policy, point.prune_ratio) == (policy, ratio)]
        colour = colormaps["viridis"](0.8 * ratios.index(ratio) / max(len(ratios) - 1, 1))
        dash = DASHES[policies.index(policy) % len(DASHES)] if ratio else "-"
        label = f"{policy}, {ratio:.0%} dropped" if ratio else "nothing dropped"
        found.append((label, sorted(line, key=lambda point: point.frames), colour, dash))
    return found


def _draw_line(ax: Axes, line: Sequence[Point], by: str, label: str, colour: object, dash: str) -> None:
    costs, heights = [getattr(point, by) for point in line], [point.accuracy for point in line]
    below = [max(point.accuracy - point.interval[0], 0) for point in line]
    above = [max(point.interval[1] - point.accuracy, 0) for point in line]
    ax.errorbar(costs, heights, [below, above], fmt="none", ecolor=colour, alpha=0.35, linewidth=1, zorder=2)
    ax.plot(
        costs, heights, dash, marker="o", markersize=5, color=colour, linewidth=1.4, label=label, zorder=3
    )
    for point, cost, height in zip(line, costs, heights, strict=True):
        offset = {"xytext": (4, 5), "textcoords": "offset points"}
        ax.annotate(str(point.frames), (cost, height), **offset, fontsize=7.5, color=colour, zorder=4)


def _draw_frontier(ax: Axes, best: Sequence[Point], by: str) -> None:
    costs, heights = [getattr(point, by) for point in best], [point.accuracy for point in best]
    ax.step(costs, heights, where="post", color=FRONTIER, linewidth=5, zorder=1, label="nothing better")


def _set_axis(ax: Axes, by: str) -> None:
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(f"{LABELS[by]}  (numbers: frames)")
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
