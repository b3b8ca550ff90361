"""Accuracy and evidence recall by policy: all cells together, then cell by cell.

Lines over the prune ratio; where there is but one, a mark for each policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

COLUMNS = 5
LABELS = {"accuracy": "accuracy", "evidence_recall": "evidence kept"}


def draw(report: Mapping[str, Any], path: Path) -> None:
    """report: as accuracy.py writes it."""
    rows = report["rows"]
    cells = list(dict.fromkeys(row["cell"] for row in rows))
    panels = [(cells[0], "evidence_recall")] + [(cell, "accuracy") for cell in cells]
    height = -(-len(panels) // COLUMNS)
    ratios = {row["prune_ratio"] for row in rows} - {0}
    leader = report["settings"]["leader"]
    fill, xlabel = (_lines, "share of the windows dropped") if len(ratios) > 1 else (_marks, "share")
    fig, axes = plt.subplots(height, COLUMNS, figsize=(3 * COLUMNS, 2.8 * height), sharex=True, sharey=True)
    fig.set_layout_engine("constrained")
    flat = axes.flatten()
    for ax, (cell, key) in zip(flat, panels, strict=False):
        fill(ax, [row for row in rows if row["cell"] == cell], key, leader)
        ax.set_title(f"{LABELS[key]}: {cell}", fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in flat[len(panels) :]:
        ax.set_axis_off()
    fig.supxlabel(xlabel, fontsize=9)
    handles, labels = flat[1].get_legend_handles_labels()
    if handles:
        fig.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=8)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def _lines(ax: Axes, rows: Sequence[Mapping[str, Any]], key: str, leader: str) -> None:
    """A line per policy, the leader's with its intervals; what prunes nothing is a level."""
    for number, policy in enumerate(dict.fromkeys(row["policy"] for row in rows)):
        mine = [row for row in rows if row["policy"] == policy]
        color = f"C{number}"
        if all(row["prune_ratio"] == 0 for row in mine):
            ax.axhline(mine[0][key], color="0.5", linestyle="--", linewidth=1, label=policy)
            continue
        ratios, values = [row["prune_ratio"] for row in mine], [row[key] for row in mine]
        ax.plot(
            ratios,
            values,
            marker="o",
            linestyle=("-", ":")[number // 10 % 2],  # colours come again
            color=color,
            markersize=3,
            linewidth=2 if policy == leader else 1,
            label=policy,
        )
        if policy == leader:
            low, high = zip(*(row[f"{key}_interval"] for row in mine), strict=True)
            ax.fill_between(ratios, low, high, color=color, alpha=0.15, linewidth=0)


def _marks(ax: Axes, rows: Sequence[Mapping[str, Any]], key: str, leader: str) -> None:
    """A mark with its interval per policy, one below the other; what prunes nothing is also a level."""
    for row in rows:
        name = f"{row['policy']} {row['prune_ratio']:.0%}"
        ax.plot(row[f"{key}_interval"], [name, name], color="C0", linewidth=1)
        ax.plot(row[key], name, "o", color="C1" if row["policy"] == leader else "C0", markersize=4)
        if row["prune_ratio"] == 0:
            ax.axvline(row[key], color="0.5", linestyle="--", linewidth=1)
    if not ax.yaxis_inverted():  # shared
        ax.invert_yaxis()
    ax.tick_params("y", labelsize=7)
