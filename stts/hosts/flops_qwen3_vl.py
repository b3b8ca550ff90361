"""The arithmetic of Qwen3-VL, counted as flops.py counts Molmo2's: every matrix product, part by part."""

from __future__ import annotations

from transformers import Qwen3VLConfig

from ..pruning.config import STTSConfig
from ..pruning.selection import num_dropped
from .flops import MultiplyAdds

UNIT_MARKERS = 2
"""vision_start and vision_end around each unit's windows."""


def multiply_adds(
    config: Qwen3VLConfig,
    units: int,
    grid: tuple[int, int],
    prune_ratio: float = 0.0,
    text_tokens: int = 64,
    text_per_unit: int = 8,
    logits: int | None = None,
    backward: bool = False,
) -> MultiplyAdds:
    """What one video of `units` units of two frames, each of `grid` patches, costs.

    text_tokens: around the video; text_per_unit: of its timestamp; the rest as in flops.multiply_adds. Kept windows
    are taken to be spread evenly over the units after the first.
    """
    vision = config.vision_config
    stts = _settings(config)
    width = vision.spatial_merge_size**2
    patches = grid[0] * grid[1]
    windows = patches // width
    dropped = 0 if stts.stage == "nowhere" else num_dropped(units, windows, prune_ratio)
    kept = units * windows - dropped
    prunes_vit = dropped > 0 and stts.stage == "vit"
    seen = -(-kept // windows) if stts.stage == "frames" else units  # by the ViT
    length = kept + (UNIT_MARKERS + text_per_unit) * units + text_tokens
    values = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    cost = MultiplyAdds(
        patch_embedding=units * patches * values * vision.hidden_size,
        vision=_vision(config, stts, seen, patches, kept * width if prunes_vit else None),
        scorer=_scorer(config, stts, units * windows) if prunes_vit and stts.policy == "scorer" else 0,
        adapter=_adapter(config, stts, units * windows, kept),
        llm=_llm(config, length),
        head=(length if logits is None else logits)
        * config.text_config.hidden_size
        * config.text_config.vocab_size,
    )
    return cost.with_backward() if backward else cost


def limit(config: Qwen3VLConfig, units: int, grid: tuple[int, int], prune_ratio: float, **settings) -> float:
    """How many times less arithmetic the pruned run needs: the most that pruning can speed it up."""
    unpruned = multiply_adds(config, units, grid, **settings)
    return unpruned.total / multiply_adds(config, units, grid, prune_ratio, **settings).total


def _settings(config: Qwen3VLConfig) -> STTSConfig:
    saved = getattr(config, "stts", None)
    stts = STTSConfig.from_dict(saved) if isinstance(saved, dict) else STTSConfig()
    return stts.for_windows(config.vision_config.spatial_merge_size)


def _vision(config: Qwen3VLConfig, stts: STTSConfig, units: int, patches: int, kept: int | None) -> int:
    """All blocks; kept: patches that survive the biased block, None where nothing is dropped."""
    vision = config.vision_config

    def block(tokens: int, pairs: int) -> int:
        linear = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
        return tokens * linear + 2 * pairs * vision.hidden_size

    whole = block(units * patches, units * patches**2)
    if kept is None:
        return vision.depth * whole
    dense, later = stts.insert_after + 2, kept - patches
    pairs = patches**2 + round(later**2 / (units - 1))
    return dense * whole + (vision.depth - dense) * block(kept, pairs)


def _scorer(config: Qwen3VLConfig, stts: STTSConfig, windows: int) -> int:
    dim, patches = config.vision_config.hidden_size, stts.pool_width**2
    first, second = stts.scorer_hidden_dims or (dim, dim // 2)
    return windows * ((2 + 2 * patches) * dim**2 + 2 * dim * first + first * second + second)


def _adapter(config: Qwen3VLConfig, stts: STTSConfig, windows: int, kept: int) -> int:
    """The merger and those of the deepstack: before the prune they run on all windows, behind it on those kept."""
    before = kept if stts.stage == "frames" else windows
    behind = windows if stts.stage == "llm" else kept
    vision = config.vision_config
    merged = vision.hidden_size * vision.spatial_merge_size**2
    early = sum(block <= stts.insert_after + 1 for block in vision.deepstack_visual_indexes)
    late = len(vision.deepstack_visual_indexes) - early
    return (early * before + (late + 1) * behind) * merged * (merged + vision.out_hidden_size)


def _llm(config: Qwen3VLConfig, length: int) -> int:
    text = config.text_config
    heads, shared = (n * text.head_dim for n in (text.num_attention_heads, text.num_key_value_heads))
    linear = text.hidden_size * (2 * heads + 2 * shared + 3 * text.intermediate_size)
    return text.num_hidden_layers * (length * linear + length * (length + 1) * heads)
