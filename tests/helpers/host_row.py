"""One host of tests/hosts/test_battery.py: a tiny random model, inputs, and what is known of it.

What a row knows (where patches lie, what sees what) is written by loops, not taken from stts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from stts import STTSConfig, insert_stts
from stts.hosts.base import Host

Video = tuple[int, int, int]
"""Frames, rows and columns of patches."""
VOCABULARY, IMAGE_ID, VIDEO_ID, START_ID, END_ID = 200, 150, 151, 152, 153


@dataclass(frozen=True, eq=False)
class Row:
    """A host, and a batch for it."""

    name: str
    make: Callable[[], PreTrainedModel]
    """The plain model, with weights large enough that every part of it matters."""
    inputs: Callable[..., dict[str, Any]]
    """(videos of each batch row, numbers=None, pad="left") -> forward's arguments; a row's text and pixels follow
    from its number alone."""
    videos: list[list[Video]]
    unit: int
    memory: Callable[[int, int], list[tuple[int, int]]]
    """(rows, columns) of a frame -> row and column of each patch, as they lie in memory."""
    blocks: str
    """Path of the ViT's blocks."""
    visible: Callable[[dict[str, Any]], Tensor]
    """(B, L, L) bool: which tokens of the LLM see which."""
    positions: Callable[[PreTrainedModel, dict[str, Any]], Tensor | None]
    """Positions of all tokens, where the plain model would take others under a mask of four dimensions."""
    placeholders: Callable[[dict[str, Any]], Tensor]
    words: int
    """Tokens below this are words that may be generated."""
    cells: Callable[[int, int], list[list[tuple[int, int]]]] | None = None
    """In place of memory, where a patch may be several cells of the frame, or none."""
    behind: int = 0
    """Placeholders behind those of a video's windows, which stay."""
    read: int = -1
    """The ViT's block that the adapter reads."""
    prefix: int = 0
    """Tokens in front of a frame's patches."""
    host: type[Host] | None = None
    """Its description, where stts does not come with one."""
    tolerance: float = 1e-5
    recurrent: bool = False
    """Whether the LLM has layers that no mask keeps from a token."""

    def patches(self, rows: int, cols: int) -> list[list[tuple[int, int]]]:
        """The cells of each patch of a frame, as they lie in memory."""
        return self.cells(rows, cols) if self.cells else [[cell] for cell in self.memory(rows, cols)]

    @property
    def shares(self) -> bool:
        """Whether LLM tokens share patches."""
        (_, *size), *_ = self.total
        return any(len(cells) > 1 for cells in self.patches(*size))

    @property
    def total(self) -> list[Video]:
        return [video for row in self.videos for video in row]

    def batch(self, **options: Any) -> dict[str, Any]:
        return self.inputs(self.videos, **options)

    def theirs(self, **options: Any) -> dict[str, Any]:
        """The batch as the plain model takes it."""
        return as_plain(self.batch(**options))

    def alone(self, number: int) -> dict[str, Any]:
        """One row of the batch by itself."""
        return self.inputs([self.videos[number]], numbers=[number])

    def pruned(self, **settings: Any) -> PreTrainedModel:
        """The same weights, pruning; a scorer whose scores are far apart."""
        model = insert_stts(self.plain(), STTSConfig(**settings), self.host)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            nn.init.normal_(model.host.scorer.fc3.weight, std=3.0)
        return model

    def plain(self) -> PreTrainedModel:
        """A fresh copy of the plain model, the same every time."""
        torch.manual_seed(0)
        return self.make().eval()


def as_plain(inputs: dict[str, Any]) -> dict[str, Any]:
    """Without what only pruning models take."""
    return {name: x for name, x in inputs.items() if name != "frames_per_video"}


def grown(model: PreTrainedModel) -> PreTrainedModel:
    """The model with larger weights: at 0.02 a tiny one says much the same whatever it sees."""
    for p in model.parameters():
        if p.ndim > 1:
            nn.init.normal_(p, std=0.08)
        elif p.abs().sum() == 0:
            nn.init.normal_(p, std=0.02)
    return model


def padded(rows: list[list[int]], side: str, fill: int = 0) -> Tensor:
    length = max(map(len, rows))
    pads = [[fill] * (length - len(row)) for row in rows]
    return torch.tensor([p + r if side == "left" else r + p for r, p in zip(rows, pads, strict=True)])


def causal(inputs: dict[str, Any]) -> Tensor:
    batch, length = inputs["input_ids"].shape
    return torch.ones(length, length, dtype=torch.bool).tril().expand(batch, -1, -1)


def row_major(rows: int, cols: int) -> list[tuple[int, int]]:
    return [(r, c) for r in range(rows) for c in range(cols)]
