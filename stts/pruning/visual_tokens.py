"""Videos behind the ViT and the adapter, as the LLM takes them whatever is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .relevance import Relevance


@dataclass(frozen=True)
class VisualTokens:
    """The visual tokens of some videos. They depend on the videos alone, so that many questions can share them."""

    features: Tensor
    """(K, D) LLM features of the kept windows, frame by frame."""
    keep: Tensor | list[Tensor]
    """(F, W) bool, True = kept; of videos of different grids a list of (T, W)."""
    scores: Tensor | None = None
    """(F, W), what windows were ranked by; None: nothing was dropped."""
    scored: Tensor | None = None
    """(F, N, D) patch features that were scored, which the auxiliary loss needs; None: nothing was dropped, or
    no loss is wanted."""
    relevance: Relevance | None = None
    """What they teach the scorer in training; None where it learns nothing from the LLM's gradient."""
    extra: dict[str, list[Tensor]] = field(default_factory=dict)
    """Further features of the same tokens, (K, D) each, by name (Qwen3-VL's deepstack)."""
    grids: tuple[tuple[int, int], ...] = ()
    """Rows and columns of patches of each video's frames, where they differ from video to video."""

    @classmethod
    def of_rows(cls, rows: Sequence[VisualTokens]) -> VisualTokens:
        """One batch of several videos, in the order of their placeholders; the same one may stand in many rows."""
        keep = [row.keep for row in rows]
        return cls(
            torch.cat([row.features for row in rows]),
            torch.cat(keep) if len({x.shape[1] for x in keep}) == 1 else keep,
            extra={
                name: [torch.cat(parts) for parts in zip(*(row.extra[name] for row in rows), strict=True)]
                for name in rows[0].extra
            },
            grids=tuple(grid for row in rows for grid in row.grids),
        )

    def check(self, num_kept: int) -> None:
        """Raises ValueError unless these are the windows that a batch keeps."""
        if len(self.features) != num_kept:
            raise ValueError(
                f"visual holds {len(self.features)} tokens, the batch keeps {num_kept}: encode its videos anew, in "
                "the order of its rows and with the model's present prune_ratio"
            )
