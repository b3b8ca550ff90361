"""The curves of a run."""

from __future__ import annotations

import os
from pathlib import Path

from matplotlib import pyplot as plt

from ..files.durable import read_rows
from .figure import save_figure


def draw_curves(
    metrics: str | os.PathLike, path: str | os.PathLike, evaluations: str | os.PathLike | None = None
) -> Path:
    """Draw a run's metrics.jsonl: losses, scores and targets, kept share and churn, over steps. Returns path.

    evaluations: the run's eval.jsonl; where it has rows, their accuracy is drawn, too.
    """
    files = [Path(file) for file in (metrics, evaluations) if file is not None and Path(file).exists()]
    rows = [row for file in files for row in read_rows(file)]
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
