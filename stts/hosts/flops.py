"""The arithmetic a run needs: multiply-adds of every matrix product, and the limit that speed is held against.

Counted: linear layers and attention (logits and weighted sum) of ViT, scorer, adapter and LLM. Not counted: norms,
activations, softmax, the auxiliary loss, the optimizer. The LLM's attention counts the pairs its mask allows: causal,
and any two visual tokens both ways. One multiply-add is two floating-point operations.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from transformers import Molmo2Config

from ..pruning.config import STTSConfig
from ..pruning.selection import num_dropped
from ..pruning.windows import window_grid
from .sizes import POOL_WIDTH

FRAME_MARKERS = 2
"""Tokens around a frame's windows; they are visual tokens to the LLM's mask and are never dropped."""


@dataclass(frozen=True)
class MultiplyAdds:
    """Multiply-adds of one example, part by part."""

    patch_embedding: int
    vision: int
    scorer: int
    adapter: int
    llm: int
    head: int

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))

    def with_backward(self) -> MultiplyAdds:
        """Forward and backward: each product comes back as two, for its input and for its weights (or for its
        other operand); pixels need no gradient. What a kernel computes again in the backward is not counted."""
        trained = {field.name: 3 * getattr(self, field.name) for field in fields(self)}
        return MultiplyAdds(**trained | {"patch_embedding": 2 * self.patch_embedding})


def multiply_adds(
    config: Molmo2Config,
    frames: int,
    prune_ratio: float = 0.0,
    text_tokens: int = 64,
    text_per_frame: int = 6,
    logits: int | None = None,
    backward: bool = False,
) -> MultiplyAdds:
    """What one video of `frames` frames costs.

    text_tokens: around the video; text_per_frame: of its timestamp, 6 for "12.5" and the spaces about it; logits:
    positions the head runs on, None for all (training), 1 in prefill. The policy, with the stage where it drops
    windows, its scorer, insert_after and pool_width are those of config.stts, or the defaults. What other policies
    need to decide is not counted. Kept windows are taken to be spread evenly over the frames after the first, which
    costs the least.
    """
    stts = _settings(config)
    windows, patches = _sizes(config, stts)
    dropped = 0 if stts.stage == "nowhere" else num_dropped(frames, windows, prune_ratio)
    kept = frames * windows - dropped
    prunes_vit = kept < frames * windows and stts.stage == "vit"
    seen = -(-kept // windows) if stts.stage == "frames" else frames  # by the ViT
    visual = kept + FRAME_MARKERS * frames
    length = visual + text_per_frame * frames + text_tokens
    cost = MultiplyAdds(
        patch_embedding=frames * patches * _patch_values(config) * config.vision_config.hidden_size,
        vision=_vision(config, stts, seen, kept if prunes_vit else None),
        scorer=_scorer(config, stts, frames * windows) if prunes_vit and stts.policy == "scorer" else 0,
        adapter=_adapter(config, stts, frames * windows if stts.stage == "llm" else kept),
        llm=_llm(config, length, visual),
        head=(length if logits is None else logits)
        * config.text_config.hidden_size
        * config.text_config.vocab_size,
    )
    return cost.with_backward() if backward else cost


def limit(config: Molmo2Config, frames: int, prune_ratio: float, **settings) -> float:
    """How many times less arithmetic the pruned run needs: the most that pruning can speed it up.

    settings: of multiply_adds, the same for both runs. The scorer counts against the pruned one.
    """
    unpruned = multiply_adds(config, frames, **settings)
    return unpruned.total / multiply_adds(config, frames, prune_ratio, **settings).total


def vision_limit(config: Molmo2Config, frames: int, prune_ratio: float, **settings) -> float:
    """The same for patch embedding, ViT and scorer alone."""
    costs = [multiply_adds(config, frames, ratio, **settings) for ratio in (0.0, prune_ratio)]
    unpruned, pruned = (replace(cost, adapter=0, llm=0, head=0).total for cost in costs)
    return unpruned / pruned


def _settings(config: Molmo2Config) -> STTSConfig:
    saved = getattr(config, "stts", None)
    stts = STTSConfig.from_dict(saved) if isinstance(saved, dict) else STTSConfig()
    return stts.for_windows(POOL_WIDTH)


def _sizes(config: Molmo2Config, stts: STTSConfig) -> tuple[int, int]:
    """Windows and patches of a frame."""
    rows, cols = (side // config.vision_config.patch_size for side in config.vision_config.image_size)
    window_rows, window_cols = window_grid((rows, cols), stts.pool_width)
    return window_rows * window_cols, rows * cols


def _patch_values(config: Molmo2Config) -> int:
    return config.vision_config.patch_size**2 * config.vision_config.num_channels


def _attention(config, tokens: int, pairs: int, input_size: int | None = None) -> int:
    """Self-attention with its four projections; pairs: of query and key, over all sequences."""
    input_size = input_size or config.hidden_size
    heads = config.num_attention_heads * config.head_dim
    projections = input_size * (heads + 2 * config.num_key_value_heads * config.head_dim)
    return tokens * (projections + heads * config.hidden_size) + 2 * pairs * heads


def _vision(config: Molmo2Config, stts: STTSConfig, frames: int, kept: int | None) -> int:
    """All blocks; kept: windows that survive the biased block, None where nothing is dropped."""
    vision = config.vision_config
    windows, patches = _sizes(config, stts)

    def block(tokens: int, pairs: int) -> int:
        mlp = 2 * tokens * vision.hidden_size * vision.intermediate_size
        return _attention(vision, tokens, pairs) + mlp

    whole = block(frames * patches, frames * patches**2)
    if kept is None:
        return vision.num_hidden_layers * whole
    dense = stts.insert_after + 2
    later = round((kept - windows) * patches / windows)  # patches kept outside the first frame
    pairs = patches**2 + round(later**2 / (frames - 1))
    return dense * whole + (vision.num_hidden_layers - dense) * block(patches + later, pairs)


def _scorer(config: Molmo2Config, stts: STTSConfig, windows: int) -> int:
    """windows: of all frames; p * p patches each, padding included."""
    dim, patches = config.vision_config.hidden_size, stts.pool_width**2
    first, second = stts.scorer_hidden_dims or (dim, dim // 2)
    pooling = (2 + 2 * patches) * dim**2  # the logits and sums inside a window are no matrix products
    return windows * (pooling + 2 * dim * first + first * second + second)


def _adapter(config: Molmo2Config, stts: STTSConfig, kept: int) -> int:
    """kept: windows; the mean of each attends to its patches, then the projector."""
    adapter, patches = config.adapter_config, stts.pool_width**2
    inputs = adapter.hidden_size * len(adapter.vision_feature_layer)
    heads = adapter.num_attention_heads * adapter.head_dim
    keys = 2 * patches * inputs * adapter.num_key_value_heads * adapter.head_dim
    pooling = inputs * heads + keys + 2 * patches * heads + heads * adapter.hidden_size
    projector = adapter.intermediate_size * (2 * adapter.hidden_size + adapter.text_hidden_size)
    return kept * (pooling + projector)


def _llm(config: Molmo2Config, length: int, visual: int) -> int:
    """length: tokens of the sequence; visual: those of them that see one another both ways."""
    text = config.text_config
    pairs = length * (length + 1) // 2 + visual * (visual - 1) // 2
    mlp = 3 * length * text.hidden_size * text.intermediate_size
    return text.num_hidden_layers * (_attention(text, length, pairs) + mlp)
