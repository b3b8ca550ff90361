"""torch.compile, a layer at a time. The layers of a stack share their code, so depth costs no more compilation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ..pruning.flex import allow_variants


def compile_layers(model: nn.Module, backend: str | Callable = "inductor") -> None:
    """Compile every ViT block and LLM layer of a pruning model, in place, for any batch size.

    All layers of ViT and LLM run through the same function of transformers: dense, biased or ragged, with one example
    or several, recomputed or not, and torch stops at 8 variants of a function. What is compiled is each layer's own
    forward: names of weights do not change, and hooks stay outside. To be called after sharding, which changes a
    layer's class.
    """
    allow_variants()
    for layer in (*model.host.blocks, *model.host.layers):
        layer.forward = torch.compile(layer.forward, dynamic=True, backend=backend)
