"""Figures of the benchmarks: lines over frames, bars, and parts of a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes


def hardware(machine: Mapping[str, Any]) -> str:
    return machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} thread(s)"


@contextmanager
def figure(path: Path, title: str, columns: int = 1) -> Iterator[Sequence[Axes]]:
    """Axes side by side, saved as <path>.png on leaving."""
    fig, axes = plt.subplots(1, columns, figsize=(6 if columns == 1 else 4.5 * columns, 4), squeeze=False)
    fig.set_layout_engine("constrained")
    yield axes[0]
    for ax in axes[0]:
        ax.spines[["top", "right"]].set_visible(False)
    fig.suptitle(title, fontsize=10)
    fig.savefig(path.with_suffix(".png"), dpi=120)
    plt.close(fig)


def lines(ax: Axes, series: Mapping[str, Mapping[float, float]], xlabel: str, ylabel: str) -> None:
    """A line each; both axes logarithmic, so that slopes show how cost grows."""
    for label, points in series.items():
        ax.plot(points.keys(), points.values(), "o-", markersize=4, label=label)
    xs = sorted({x for points in series.values() for x in points})
    ax.set(xlabel=xlabel, ylabel=ylabel, xscale="log", yscale="log")
    ax.set_xticks(xs, [f"{x:g}" for x in xs], minor=False)
    ax.set_xticks([], minor=True)
    ax.legend(frameon=False, fontsize=8)


def over_frames(
    rows: Sequence[Mapping[str, Any]], by: str, key: str, scale: float
) -> dict[str, dict[float, float]]:
    """For lines: rows -> their value under `by` -> number of frames -> scale * value under `key`."""
    series: dict[str, dict[float, float]] = {}
    for row in rows:
        series.setdefault(row[by], {})[row["frames"]] = row[key] * scale
    return series


def bars(ax: Axes, groups: Sequence[str], series: Mapping[str, Sequence[float]], ylabel: str) -> None:
    """A group of bars for each of groups, one bar of each series."""
    width = 0.8 / len(series)
    for i, (label, values) in enumerate(series.items()):
        ax.bar([g + i * width for g in range(len(groups))], values, width, label=label)
    ax.set_xticks([g + 0.4 - width / 2 for g in range(len(groups))], groups)
    ax.set(ylabel=ylabel)
    ax.legend(frameon=False, fontsize=8)


def stacked(ax: Axes, bars: Sequence[str], parts: Mapping[str, Sequence[float]], xlabel: str) -> None:
    """Bars lying one below the other, each made of the same parts."""
    left = [0.0] * len(bars)
    colors = plt.get_cmap("tab20").colors
    for i, (label, values) in enumerate(parts.items()):
        ax.barh(bars, values, left=left, label=label, color=colors[i % len(colors)])
        left = [start + value for start, value in zip(left, values, strict=True)]
    ax.invert_yaxis()
    ax.set(xlabel=xlabel)
    ax.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
