"""The arithmetic of any host, counted as flops.py counts Molmo2's: read off the layers that its description names.

A part's linear layers cost their weights for every token that goes through them; attention costs the pairs that see
each other. Kept windows are taken to be spread evenly over the frames after the first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from ..pruning.config import STTSConfig
from ..pruning.selection import num_dropped
from ..pruning.windows import Grid
from .base import Host
from .flops import MultiplyAdds

LINEAR = (nn.Linear, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Layers:
    """Layers of one kind, and what they cost."""

    count: int
    linear: int
    """Multiply-adds a token."""
    width: int = 0
    """Of all heads of the attention together: twice that a pair."""
    window: int | None = None
    """Attention: how far back it sees (LLM), or the side of its squares in patches (ViT)."""


@dataclass(frozen=True)
class Arithmetic:
    """What a model's parts cost."""

    embedding: int
    """A patch."""
    blocks: tuple[Layers, ...]
    """Of the ViT, in order."""
    adapter: int
    """A window."""
    adapter_sees_all: bool
    """Whether the adapter runs on dropped windows, too."""
    llm: tuple[Layers, ...]
    head: int
    """A token."""
    scorer: int
    """A window."""


def arithmetic_of(host: Host, stts: STTSConfig) -> Arithmetic:
    """Read off a model, which may be on the meta device. Its linear layers alone count, as everywhere."""
    vision, blocks = host.vision, list(nn.ModuleList.__iter__(host.blocks))
    adapter = [host.model.get_submodule(path) for path in host.adapter_at]
    inside = {id(m) for part in (*blocks, *adapter) for m in part.modules()}
    outside = [m for m in vision.modules() if isinstance(m, LINEAR[1:]) and id(m) not in inside]
    width, _ = host.dims
    side = getattr(vision.config, "window_size", None)
    whole = getattr(vision.config, "fullatt_block_indexes", range(len(blocks)))
    of_blocks = tuple(
        Layers(
            1, weights([block]), width, None if i in whole or not side else side // vision.config.patch_size
        )
        for i, block in enumerate(blocks)
    )
    first, second = stts.scorer_hidden_dims or (width, width // 2)
    scorer = (2 + 2 * host.unit**2) * width**2 + 2 * width * first + first * second + second
    return Arithmetic(
        embedding=weights(outside),
        blocks=of_blocks,
        adapter=weights(adapter),
        adapter_sees_all=host.tail != "none",
        llm=tuple(_layer(layer) for layer in host.layers),
        head=weights([host.model.get_output_embeddings()]),
        scorer=scorer,
    )


def weights(modules: Iterable[nn.Module]) -> int:
    """Weights of the linear layers in these modules, and other matrices: multiply-adds a token."""
    found = {id(m): m for module in modules for m in module.modules() if not isinstance(m, nn.Embedding)}
    return sum(
        p.numel()
        for m in found.values()
        for p in m.parameters(recurse=False)
        if p.ndim > 1 and (isinstance(m, LINEAR) or p.ndim == 2)
    )


def _layer(layer: nn.Module) -> Layers:
    attention = getattr(layer, "self_attn", None)
    if attention is None:  # gated delta nets: a state is read, corrected and written for every token
        delta = layer.linear_attn
        state = 3 * delta.num_v_heads * delta.head_k_dim * delta.head_v_dim
        return Layers(1, weights([layer]) + state)
    return Layers(
        1, weights([layer]), attention.o_proj.in_features, getattr(attention, "sliding_window", None)
    )


def multiply_adds(
    host: Host,
    stts: STTSConfig,
    units: int,
    grid: Grid,
    prune_ratio: float = 0.0,
    text_tokens: int = 64,
    text_per_unit: int = 10,
    logits: int | None = None,
) -> MultiplyAdds:
    """What one video of `units` units of time, each of `grid` patches in whole windows, costs.

    text_tokens: around the video; text_per_unit: of its time and markers; logits: positions the head runs on, None
    for all. Windows are dropped in the ViT, or where the policy of stts drops them.
    """
    cost = arithmetic_of(host, stts)
    windows = grid[0] * grid[1] // host.unit**2
    dropped = 0 if stts.stage == "nowhere" else num_dropped(units, windows, prune_ratio)
    kept = units * windows - dropped
    prunes_vit = dropped > 0 and stts.stage == "vit"
    seen = -(-kept // windows) if stts.stage == "frames" else units
    patches = host.frame_tokens(grid) + host.num_prefix
    share = (kept - windows) / max((units - 1) * windows, 1) if prunes_vit else 1.0
    dense = stts.insert_after + 2 if prunes_vit else len(cost.blocks)
    vision = sum(
        _block(block, grid, host, seen, patches, 1.0 if i < dense else share)
        for i, block in enumerate(cost.blocks)
    )
    adapted = units * windows if cost.adapter_sees_all or stts.stage == "llm" else kept
    rows = (patches - host.num_prefix) / windows if host.adapter_before_pooling else 1
    length = kept + text_per_unit * units + text_tokens
    return MultiplyAdds(
        patch_embedding=units * host.frame_tokens(grid) * cost.embedding,
        vision=round(vision),
        scorer=cost.scorer * units * windows if prunes_vit and stts.policy == "scorer" else 0,
        adapter=round(adapted * rows * cost.adapter),
        llm=sum(_llm(layer, length) for layer in cost.llm),
        head=(length if logits is None else logits) * cost.head,
    )


def _block(block: Layers, grid: Grid, host: Host, units: int, patches: int, share: float) -> float:
    """Of all units, the first one whole and this share of the others."""
    tokens = patches * (1 + (units - 1) * share)
    pairs = (
        patches**2
        if block.window is None
        else squares(grid[0], block.window) * squares(grid[1], block.window)
    )
    return tokens * block.linear + 2 * block.width * pairs * (1 + (units - 1) * share**2)


def squares(length: int, window: int) -> int:
    """Sum of the squares of the pieces that a line is cut into."""
    whole, rest = divmod(length, window)
    return whole * window**2 + rest**2


def _llm(layer: Layers, length: int) -> int:
    sees = min(layer.window or length, length)
    pairs = sees * (sees + 1) // 2 + (length - sees) * sees
    return length * layer.linear + 2 * pairs * layer.width


def limit(host: Host, stts: STTSConfig, units: int, grid: Grid, prune_ratio: float, **settings: int) -> float:
    """How many times less arithmetic the pruned run needs: the most that pruning can speed it up."""
    unpruned = multiply_adds(host, stts, units, grid, **settings)
    return unpruned.total / multiply_adds(host, stts, units, grid, prune_ratio, **settings).total
