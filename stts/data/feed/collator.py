"""Examples -> one batch: a row per example, or several in a row, up to budgets of surviving tokens and frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...pruning.layout import BatchLayout
from ...pruning.selection import num_dropped
from ..processors.base import IGNORE, VideoForm
from ..processors.pooled_videos import PooledVideos
from .budget import Budget, Size, decreasing, first_fit

Example = dict[str, Any]


class Collator:
    """Batches the processor's examples, padded on the right.

    pad_token_id: what fills input_ids. prune_ratio: the model's, assignable later: it decides how much of an
    example counts against the budget. max_tokens: budget of a row in tokens that survive pruning; max_frames: in
    frames; None for both leaves every example a row of its own. loss_weight: "token" (each supervised token
    counts the same) or "example" (each example does). video_form: that of the processor; None: Molmo2's.

    Packing is first-fit decreasing over the examples of the batch and depends on nothing else.
    """

    def __init__(
        self,
        pad_token_id: int,
        prune_ratio: float = 0.0,
        max_tokens: int | None = None,
        max_frames: int | None = None,
        loss_weight: str = "token",
        video_form: VideoForm | None = None,
    ) -> None:
        if not 0 <= prune_ratio < 1:
            raise ValueError(f"prune_ratio is {prune_ratio}, must be in [0, 1)")
        for name, value in (("max_tokens", max_tokens), ("max_frames", max_frames)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, must be at least 1, or null for no packing")
        if loss_weight not in ("token", "example"):
            raise ValueError(f"loss_weight is {loss_weight!r}, must be token or example")
        self.video_form = video_form or PooledVideos()
        if (max_tokens or max_frames) and not self.video_form.packs:
            raise ValueError(
                "max_tokens and max_frames put several examples into a row, which this model cannot take: its "
                "positions are counted over whole rows; leave both null"
            )
        self.pad_token_id = pad_token_id
        self.prune_ratio = prune_ratio
        self.budget = Budget(max_tokens, max_frames)
        self.loss_weight = loss_weight

    @property
    def packs(self) -> bool:
        """Whether examples share rows."""
        return self.budget != Budget()

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """One batch.

        Returns input_ids, labels, mm_token_type_ids and attention_mask, all (B, L) int64; "layout", a
        BatchLayout; "ids" of the examples, row by row. With videos also what video_form joins them to, in the
        order of their placeholders, row by row. When packing also position_ids (B, L), from 0 in each example, and
        sequence_ids (B, L), the example's number in its row, -1 = padding. With
        loss_weight="example" also loss_weights (B, L) float32, which add up to 1 over each example.

        Raises ValueError, naming the id, for an example over the budget or with frames of another size.
        """
        if not examples:
            raise ValueError("a batch needs at least one example")
        examples = [{"id": str(i)} | example for i, example in enumerate(examples)]
        return self.lay_out(self._pack(examples) if self.packs else [[example] for example in examples])

    def lay_out(self, rows: list[list[Example]]) -> dict[str, Any]:
        """The batch of examples that have their rows already: as __call__, which asks no one."""
        batch = self._text(rows)
        if self.packs:
            batch |= _sequences(rows)
        if self.loss_weight == "example":
            batch["loss_weights"] = _pad(
                [torch.cat([_loss_weights(example["labels"]) for example in row]) for row in rows], 0
            )
        batch |= self._videos([example for row in rows for example in row])
        batch["layout"] = _layout(rows, self.video_form)
        batch["ids"] = [str(example["id"]) for row in rows for example in row]
        return batch

    def _videos(self, examples: Sequence[Example]) -> dict[str, Any]:
        """The videos of all examples. Raises ValueError for one of another family, which would go unseen."""
        for example in examples:
            if "pixel_values_videos" in example and not self.video_form.windows(example):
                raise ValueError(
                    f"example {example['id']!r} has a video that {type(self.video_form).__name__} does not know: "
                    "collate with video_form=processor.video_form"
                )
        return self.video_form.join(examples)

    def size(self, example: Example) -> Size:
        """Tokens of an example that survive pruning, and its frames."""
        grids = self.video_form.windows(example)
        dropped = sum(num_dropped(units, height * width, self.prune_ratio) for units, height, width in grids)
        frames = sum(units for units, _, _ in grids) * self.video_form.unit_frames
        return Size(len(example["input_ids"]) - dropped, frames)

    def refuse(self, example: Example) -> None:
        """Raises ValueError naming an example that no row can hold."""
        size, budget = self.size(example), self.budget
        if budget.tokens is not None and size.tokens > budget.tokens:
            raise ValueError(
                f"example {example['id']!r} keeps {size.tokens} tokens, more than max_tokens {budget.tokens}: "
                "raise max_tokens or prune_ratio, or take fewer frames"
            )
        if budget.frames is not None and size.frames > budget.frames:
            raise ValueError(
                f"example {example['id']!r} has {size.frames} frames, more than max_frames {budget.frames}: "
                "raise max_frames, or take fewer frames"
            )

    def _pack(self, examples: Sequence[Example]) -> list[list[Example]]:
        """First-fit decreasing. Rows, and the examples in each, keep the order they came in."""
        for example in examples:
            self.refuse(example)
        sizes = [self.size(example) for example in examples]
        rows = first_fit(sizes, decreasing(sizes, self.budget), self.budget, len(examples))
        return [[examples[i] for i in row] for row in rows]

    def _text(self, rows: list[list[Example]]) -> dict[str, Tensor]:
        """input_ids, labels, mm_token_type_ids and attention_mask of all rows, each (B, L) int64."""
        fill = {"input_ids": self.pad_token_id, "labels": IGNORE, "mm_token_type_ids": 0}
        batch = {
            key: _pad([torch.cat([example[key] for example in row]) for row in rows], value)
            for key, value in fill.items()
        }
        lengths = torch.tensor([sum(len(example["input_ids"]) for example in row) for row in rows])
        batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        return batch


def _pad(rows: list[Tensor], value: int) -> Tensor:
    """B rows of different lengths -> (B, L), filled with value on the right."""
    return pad_sequence(rows, batch_first=True, padding_value=value)


def _loss_weights(labels: Tensor) -> Tensor:
    """(L,) labels of one example -> (L,) float32, the share of each token that is predicted: the first never is."""
    supervised = (labels != IGNORE).float()
    supervised[0] = 0
    return supervised / supervised.sum().clamp(min=1)


def _sequences(rows: list[list[Example]]) -> dict[str, Tensor]:
    """position_ids and sequence_ids of packed rows, each (B, L) int64."""
    lengths = [[len(example["input_ids"]) for example in row] for row in rows]
    positions = [torch.cat([torch.arange(length) for length in row]) for row in lengths]
    numbers = [torch.arange(len(row)).repeat_interleave(torch.tensor(row)) for row in lengths]
    return {"position_ids": _pad(positions, 0), "sequence_ids": _pad(numbers, -1)}


def _layout(rows: list[list[Example]], form: VideoForm) -> BatchLayout:
    videos = [(r, sizes) for r, row in enumerate(rows) for example in row for sizes in form.windows(example)]
    return BatchLayout(
        frames_per_video=tuple(frames for _, (frames, _, _) in videos),
        lengths=tuple(sum(len(example["input_ids"]) for example in row) for row in rows),
        video_rows=tuple(row for row, _ in videos),
        grids=tuple((height * form.unit, width * form.unit) for _, (_, height, width) in videos if form.unit),
        num_windows=sum(frames * height * width for _, (frames, height, width) in videos),
    )
