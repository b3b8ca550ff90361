"""python benchmarks/speed_figure.py results/speed-*.json: draw speed-up over frames again from stored results."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from figures import figure, hardware
from matplotlib.axes import Axes

PAPER = {"train": {128: 1.62, 256: 2.25}, "prefill": {128: 1.61, 256: 2.22}}
"""arXiv 2603.18004: speed-up of Molmo2-4B at a ratio of 0.5, training and inference."""


STYLES = (
    ("pruned", "speedup", "o-", "pruned"),
    ("pruned", "limit", "--", "limit"),
    ("after-vit", "speedup", "s:", "after the ViT"),
    ("tome", "speedup", "^:", "merged"),
)


def draw(path: Path) -> Path:
    """Draw <name>.png beside <name>.json: a colour a ratio, its limit dashed, other ways dotted. Returns its path."""
    results = json.loads(path.read_text())
    settings, rows = results["settings"], results["rows"]
    title = f"{settings['preset']}, {settings['mode']}\n{hardware(results['machine'])}"
    frames = [row["frames"] for row in rows]
    points = {n: s for n, s in PAPER.get(settings["mode"], {}).items() if n <= max(frames)}
    with figure(path, title) as (ax,):
        for number, ratio in enumerate(sorted({row["ratio"] for row in rows} - {0.0})):
            draw_ratio(ax, [row for row in rows if row["ratio"] == ratio], ratio, f"C{number}")
        if points:
            ax.plot(points.keys(), points.values(), "kx", label="paper, 50 % (Molmo2-4B)")
        ax.axhline(1, color="0.7", linewidth=0.8)
        ax.set(xlabel="frames", ylabel="speed-up over no pruning", ylim=(0, None))
        ax.set_xticks(sorted({*frames, *points}))
        ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return path.with_suffix(".png")


def draw_ratio(ax: Axes, rows: list[dict[str, Any]], ratio: float, color: str) -> None:
    """One ratio: measured, its limit, and the other ways."""
    for way, key, style, label in STYLES:
        found = [row for row in rows if row["variant"] == way]
        points = sorted((r["frames"], r[key]) for r in found if r.get(key) is not None)
        if points:
            ax.plot(
                *zip(*points, strict=True), style, color=color, label=f"{label}, {ratio:.0%}", markersize=4
            )


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(draw(Path(name)))
