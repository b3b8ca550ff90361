"""Weights that are neither more nor less than a model has."""

from __future__ import annotations

from transformers import Molmo2Config

from ..hosts.molmo2_names import HEAD, VIT_LAYER, WORDS
from .tensors import Weights


def without_surplus(weights: Weights, config: Molmo2Config) -> tuple[Weights, list[str]]:
    """Leave out ViT layers no feature depends on, which the model does not have; and say so."""
    num_layers = config.vision_config.num_hidden_layers
    layers = {name: int(match[1]) for name in weights.shapes if (match := VIT_LAYER.match(name))}
    surplus = sorted({layer for layer in layers.values() if layer >= num_layers})
    kept = {name: shape for name, shape in weights.shapes.items() if layers.get(name, 0) < num_layers}
    numbers = ", ".join(map(str, surplus))
    remark = f"ViT layers {numbers} are left out: no feature is taken beyond layer {num_layers - 1}."
    return Weights(kept, weights.read), [remark] if surplus else []


def with_tied_head(weights: Weights) -> Weights:
    """The table of words is the output head, too."""
    shapes = weights.shapes | ({HEAD: weights.shapes[WORDS]} if WORDS in weights.shapes else {})
    return Weights(shapes, lambda name: weights.read(WORDS if name == HEAD else name))
