"""The loss of relevance written out, and where the tokens that it is about enter an LLM."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def slow_loss(
    tokens: Tensor,
    gradient: Tensor,
    scores: Tensor,
    keep: Tensor,
    of_token: Tensor,
    sizes: Sequence[tuple[int, int]],
) -> Tensor:
    """The cross-entropy written out, video by video and window by window; arguments as
    stts.pruning.relevance.teach."""
    total, count, start = torch.zeros(()), 0, 0
    for frames, windows in sizes:
        worth = {}
        for token, window in enumerate(of_token.tolist()):
            if start <= window < start + frames * windows:
                worth[window] = gradient[token].norm() * tokens[token].norm()
        greatest = max(worth.values())
        for window in range(start + windows, start + frames * windows):
            if not keep[window]:
                continue
            count += 1
            if greatest > 0:
                r, s = worth[window] / greatest, scores[window]
                total = total - (r * s.log() + (1 - r) * (1 - s).log())
        start += frames * windows
    return total / count


@contextmanager
def entering(layer: nn.Module):
    """What goes into an LLM's first layer, one tensor a pass, whose gradients are kept."""
    seen: list[Tensor] = []

    def watch(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["hidden_states"]
        x.retain_grad()
        seen.append(x)

    handle = layer.register_forward_pre_hook(watch, with_kwargs=True)
    yield seen
    handle.remove()
