"""Videos after the ViT and the adapter: what the LLM takes of them, whatever is asked about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class VisualTokens:
    """The visual tokens of some videos. They depend on the videos alone, so that many questions can share them."""

    features: Tensor
    """(K, D) LLM features of the kept windows, frame by frame."""
    keep: Tensor
    """(F, W) bool, True = kept."""
    scores: Tensor | None = None
    """(F, W), what windows were ranked by; None: nothing was dropped."""
    scored: Tensor | None = None
    """(F, N, D) patch features that were scored, which the auxiliary loss needs; None: nothing was dropped, or
    no loss is wanted."""

    @classmethod
    def of_rows(cls, rows: Sequence[VisualTokens]) -> VisualTokens:
        """One batch of several videos, in the order of their placeholders; the same one may stand in many rows."""
        return cls(torch.cat([row.features for row in rows]), torch.cat([row.keep for row in rows]))

    def check(self, num_kept: int) -> None:
        """Raises ValueError unless these are the windows that a batch keeps."""
        if len(self.features) != num_kept:
            raise ValueError(
                f"visual holds {len(self.features)} tokens, the batch keeps {num_kept}: encode its videos anew, in "
                "the order of its rows and with the model's present prune_ratio"
            )
