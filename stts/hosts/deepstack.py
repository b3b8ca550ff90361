"""Visual tokens into the LLM of Qwen3-VL without waiting for the device.

transformers counts placeholders, and picks the places to which it adds deepstack features by a mask of bools: both
wait until the device is done. Here features are put where they belong by their number among the placeholders, and
deepstack features are added to all places, zeros where there is no visual token. The sums are the same, bit for bit.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

ARGUMENT = "deepstack_everywhere"
"""Keyword of forward: (B, L, D) for each of the first LLM layers, added to what it says."""


class Everywhere:
    """What stands in for transformers' mask of the visual tokens: an index of all rows."""

    def to(self, *args: Any, **kwargs: Any) -> slice:
        """As of a mask that goes to the device of a layer."""
        return slice(None)


def add_everywhere(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Forward pre-hook of the LLM: hands ARGUMENT on as transformers' own arguments."""
    dense = kwargs.pop(ARGUMENT, None)
    if dense is not None:
        kwargs |= {"visual_pos_masks": Everywhere(), "deepstack_visual_embeds": dense}
    return args, kwargs


def spread_out(features: Tensor, placeholders: Tensor, elsewhere: Tensor) -> Tensor:
    """elsewhere (B, L, D) with the features (K, D) at the placeholders, (B, L) bool, in their order.

    There must be K of them: that is not looked at. Of no features, too, the result knows, for their gradient.
    """
    number = (placeholders.flatten().cumsum(0) - 1).clamp(0, len(features))
    features = functional.pad(features, (0, 0, 0, 1)).to(elsewhere.device, elsewhere.dtype)
    placed = features.index_select(0, number).view_as(elsewhere)
    return placed.where(placeholders[..., None], elsewhere)
