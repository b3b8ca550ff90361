"""python benchmarks/relevance_targets.py preset=relevance_ablation: other targets made of the LLM's gradient.

The recommended recipe (arm "size") with the target changed, asked as accuracy.py does, in one process. Results are
written as relevance_targets.json into output_dir.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import accuracy
import torch
from torch import Tensor

from stts.pruning import policies, relevance
from stts.pruning.policies import View, change
from stts.pruning.relevance import Windows
from stts.settings.launch import launch

as_shipped, ranked_as_shipped = relevance.targets, policies.with_novelty


def gradient_alone(gradients: Tensor, norms: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
    """|g| in place of |g| |f|."""
    return as_shipped(gradients, torch.ones_like(norms), windows)


def by_rank(gradients: Tensor, norms: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
    """The place among the kept windows of its video, from 0 to 1, in place of the share of the greatest."""
    size, known = as_shipped(gradients, norms, windows)
    counts, parts = [frames * width for frames, width in windows.sizes], []
    for of_video, kept in zip(size.split(counts), windows.keep.split(counts), strict=True):
        place = torch.where(kept, of_video, -1).argsort(stable=True).argsort() - (~kept).sum()
        parts.append(place.clamp(0) / (kept.sum() - 1).clamp(1))
    return torch.cat(parts), known


class TimesNovelty:
    """Relevance times novelty as what the scorer learns, in place of ranking by both: windows rank by score alone."""

    novelty: Tensor
    """(F, W), of the last forward pass."""

    def ranking(self, scores: Tensor, view: View) -> Tensor:
        self.novelty = change(view).clamp(0, 1)
        return scores

    def targets(self, gradients: Tensor, norms: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
        size, known = as_shipped(gradients, norms, windows)
        return size * self.novelty.flatten(), known


times_novelty = TimesNovelty()
Target = Callable[..., tuple[Tensor, Tensor]]
ARMS: dict[str, tuple[Target, Callable[[Tensor, View], Tensor]]] = {
    "size": (as_shipped, ranked_as_shipped),
    "gradient_alone": (gradient_alone, ranked_as_shipped),
    "by_rank": (by_rank, ranked_as_shipped),
    "times_novelty": (times_novelty.targets, times_novelty.ranking),
}
"""Targets, and what windows are ranked by."""


def main(config: dict[str, Any]) -> None:
    """Train with one target after the other; then all are compared, none of them trained again."""
    shared = {
        "processes": 1,  # others would not know of the target
        "leader": "size",
        "policies": dict.fromkeys(ARMS, config["policies"]["recommended"]),
        "results": f"{config['output_dir']}/relevance_targets.json",
    }
    try:
        for name, (target, ranking) in ARMS.items():
            relevance.targets, policies.with_novelty = target, ranking
            accuracy.main(config | shared | {"arms": [name]})
    finally:
        relevance.targets, policies.with_novelty = as_shipped, ranked_as_shipped
    accuracy.main(config | shared | {"arms": list(ARMS)})


if __name__ == "__main__":
    launch(main, "accuracy")
