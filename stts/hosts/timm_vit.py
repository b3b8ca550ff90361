"""timm's ViTs, VisionTransformer and Eva, which insert_stts makes prune frames; nothing else needs timm."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ..pruning.blocks import Blocks
from ..pruning.windows import Grid
from .vision import PrunedVision, VisionHost


class Chain(Blocks, nn.Sequential):
    """timm's blocks, which are called as one."""


class Timm(VisionHost):
    """Attention is plain scaled_dot_product_attention, whose mask says what the block is told."""

    blocks_at = "blocks"

    @classmethod
    def pruned(cls) -> type[PrunedVision]:
        return PrunedTimm

    @property
    def num_prefix(self) -> int:
        return self.model.num_prefix_tokens

    @property
    def dims(self) -> tuple[int, int]:
        return self.model.embed_dim, self.model.blocks[0].attn.num_heads

    def set_blocks(self, blocks: nn.ModuleList) -> None:
        self.model.blocks = Chain(blocks) if isinstance(blocks, Blocks) else nn.Sequential(*blocks)

    def grid(self, pixels: Tensor) -> Grid:
        rows, cols = self.model.patch_embed.patch_size
        return pixels.shape[2] // rows, pixels.shape[3] // cols

    def for_survivors(self, kwargs: dict[str, Any], index: Tensor) -> dict[str, Any]:
        """Eva turns all tokens but the first few, which it takes for the prefix of a frame: here that of the first,
        which stays. The other frames' prefixes are among the rest: they are turned by nothing."""
        if (rope := kwargs.get("rope")) is None:
            return kwargs
        if rope.ndim != 2:
            raise ValueError(
                "this Eva has positions of its own in every block (rope_mixed), which cannot be pruned"
            )
        prefix, half = self.num_prefix, rope.shape[1] // 2  # (N, 2 d): sines, then cosines
        still = torch.cat([rope.new_zeros(prefix, half), rope.new_ones(prefix, half)], 1)
        of_token = torch.cat([still, rope]).index_select(0, index % (prefix + len(rope)))
        return kwargs | {"rope": of_token[prefix:]}


class PrunedTimm(PrunedVision):
    """What stands before a timm class: its forward on videos."""

    @property
    def config(self) -> SimpleNamespace:
        """What transformers' models have: where the settings lie."""
        return vars(self).setdefault("_stts_config", SimpleNamespace(_attn_implementation=None))

    def forward(self, x: Tensor, **kwargs: Any) -> Any:
        """As PrunedVision does; x: (F, 3, H, W)."""
        return super().forward(x, **kwargs)

    def last_hidden(self, pixel_values: Tensor, **kwargs: Any) -> Tensor:
        if not self.blocks[0].attn.fused_attn:
            raise ValueError(
                "the attention of this model is not fused, which pruning needs (TIMM_FUSED_ATTN)"
            )
        if self.grad_checkpointing and not hasattr(self, "rope"):
            raise ValueError("grad_checkpointing calls a VisionTransformer's blocks out of turn: turn it off")
        return self.forward_features(pixel_values, **kwargs)
