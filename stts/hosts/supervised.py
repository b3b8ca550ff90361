"""Logits of the supervised tokens alone, where the loss is all that is wanted of them.

Of a video's tokens none is supervised. Logits of all, with a float copy and a gradient of the same size, are the
largest thing in memory of a long sequence whose activations are recomputed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.processors.base import IGNORE


@contextmanager
def supervised_alone(
    head: nn.Module, labels: Tensor | None, weights: Tensor | None, count: int | None
) -> Iterator[tuple[Tensor | None, Tensor | None]]:
    """Within it, head sees the hidden states in front of supervised tokens alone, as one row.

    head: what makes logits of hidden states, (B, L, D) -> (B, L, V); labels: (B, L); weights: (B, L), of each label;
    count: at least as many as are supervised, not counting the first column, known to the host so that it need not
    wait. Gives the labels and weights of that row, (1, count + 1), of which the first stands for nothing: as always
    a label belongs to the logits one place before it. Where count is 0 there are weights, too: a weighted mean over
    nothing is 0, a plain one no number. Without labels or count everything is as given.
    """
    if labels is None or count is None:
        yield labels, weights
        return
    after = F.pad(labels[:, 1:], (0, 1), value=IGNORE).flatten()  # what each hidden state is to predict
    places = (after == IGNORE).byte().argsort(stable=True)[: count + 1]
    labels = after.index_select(0, places).roll(1)[None]
    if not count and weights is None:
        weights = torch.zeros_like(labels, dtype=torch.float32)
    elif weights is not None:
        weights = F.pad(weights[:, 1:], (0, 1)).flatten().index_select(0, places).roll(1)[None]

    def choose(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0].flatten(0, 1).index_select(0, places)[None], *args[1:])

    hook = head.register_forward_pre_hook(choose)
    try:
        yield labels, weights
    finally:
        hook.remove()
