"""python benchmarks/speed_figure.py results/speed-*.json: draw speed-up over frames again from stored results."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

PAPER = {"train": {128: 1.62, 256: 2.25}, "prefill": {128: 1.61, 256: 2.22}}
"""arXiv 2603.18004: speed-up of Molmo2-4B at a ratio of 0.5, training and inference."""


def draw(path: Path) -> Path:
    """Draw <name>.png beside <name>.json: a line a ratio, the limit dashed, llm-only dotted. Returns its path."""
    results = json.loads(path.read_text())
    settings, rows = results["settings"], results["rows"]
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    ratios = sorted({row["ratio"] for row in rows if row["variant"] == "pruned"})
    for number, ratio in enumerate(ratios):
        draw_ratio(ax, [row for row in rows if row["ratio"] == ratio], ratio, f"C{number}")
    frames = [row["frames"] for row in rows]
    points = {n: s for n, s in PAPER.get(settings["mode"], {}).items() if n <= max(frames)}
    if points:
        ax.plot(points.keys(), points.values(), "kx", label="paper, 50 % (Molmo2-4B)")
    ax.axhline(1, color="0.7", linewidth=0.8)
    ax.set(
        xlabel="frames", ylabel="speed-up over no pruning", ylim=(0, None), xticks=sorted({*frames, *points})
    )
    ax.set_title(f"{settings['preset']}, {settings['mode']}\n{hardware(results['machine'])}", fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8)
    target = path.with_suffix(".png")
    figure.savefig(target, dpi=120)
    plt.close(figure)
    return target


def draw_ratio(ax: Axes, rows: list[dict[str, Any]], ratio: float, color: str) -> None:
    """Measured, limit and llm-only of one ratio."""
    lines = (
        ("pruned", "speedup", "o-", "pruned"),
        ("pruned", "limit", "--", "limit"),
        ("llm-only", "speedup", "s:", "after the ViT"),
    )
    for variant, key, style, label in lines:
        points = sorted((r["frames"], r[key]) for r in rows if r["variant"] == variant and r[key] is not None)
        if points:
            ax.plot(
                *zip(*points, strict=True), style, color=color, label=f"{label}, {ratio:.0%}", markersize=4
            )


def hardware(machine: dict[str, Any]) -> str:
    return machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} thread(s)"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(draw(Path(name)))
