"""Examples -> one batch: a row per example, or several packed in a row up to a budget of surviving tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..layout import BatchLayout
from ..selection import num_dropped
from .processing import IGNORE

Example = dict[str, Any]


class Collator:
    """Batches the processor's examples, padded on the right.

    pad_token_id: what fills input_ids. prune_ratio: the model's, assignable later: it decides how much of an
    example counts against the budget. max_tokens: budget of a row in tokens that survive pruning; None leaves
    every example a row of its own.

    Packing is first-fit decreasing over the examples of the batch and depends on nothing else.
    """

    def __init__(self, pad_token_id: int, prune_ratio: float = 0.0, max_tokens: int | None = None) -> None:
        if not 0 <= prune_ratio < 1:
            raise ValueError(f"prune_ratio is {prune_ratio}, must be in [0, 1)")
        if max_tokens is not None and max_tokens < 1:
            raise ValueError(f"max_tokens is {max_tokens}, must be at least 1, or null for no packing")
        self.pad_token_id = pad_token_id
        self.prune_ratio = prune_ratio
        self.max_tokens = max_tokens

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """One batch.

        Returns input_ids, labels, mm_token_type_ids and attention_mask, all (B, L) int64; "layout", a
        BatchLayout; "ids" of the examples, row by row. With videos also pixel_values_videos (F, N, values)
        uint8, video_token_pooling (sum T*W, p*p) int64 patches of all F frames, -1 = none, and video_grids
        (V, 3) int64, in the order of their placeholders, row by row. When packing also position_ids (B, L),
        from 0 in each example, and sequence_ids (B, L), the example's number in its row, -1 = padding.

        Raises ValueError, naming the id, for an example over the budget or with frames of another size.
        """
        if not examples:
            raise ValueError("a batch needs at least one example")
        examples = [{"id": str(i)} | example for i, example in enumerate(examples)]
        rows = [[example] for example in examples] if self.max_tokens is None else self._pack(examples)
        batch = self._text(rows)
        if self.max_tokens is not None:
            batch |= _sequences(rows)
        batch |= _videos([example for row in rows for example in row])
        batch["layout"] = _layout(rows)
        batch["ids"] = [str(example["id"]) for row in rows for example in row]
        return batch

    def kept_length(self, example: Example) -> int:
        """Tokens of an example that survive pruning."""
        return len(example["input_ids"]) - sum(
            num_dropped(frames, height * width, self.prune_ratio) for frames, height, width in _grids(example)
        )

    def _pack(self, examples: Sequence[Example]) -> list[list[Example]]:
        """First-fit decreasing. Rows, and the examples in each, keep the order they came in."""
        lengths = [self.kept_length(example) for example in examples]
        rows: list[list[int]] = []
        room: list[int] = []
        for i in sorted(range(len(examples)), key=lambda i: -lengths[i]):
            if lengths[i] > self.max_tokens:
                raise ValueError(
                    f"example {examples[i]['id']!r} keeps {lengths[i]} tokens, more than max_tokens "
                    f"{self.max_tokens}: raise max_tokens or prune_ratio, or take fewer frames"
                )
            row = next((r for r, free in enumerate(room) if lengths[i] <= free), None)
            if row is None:
                row = len(rows)
                rows.append([])
                room.append(self.max_tokens)
            rows[row].append(i)
            room[row] -= lengths[i]
        return [[examples[i] for i in row] for row in sorted(sorted(row) for row in rows)]

    def _text(self, rows: list[list[Example]]) -> dict[str, Tensor]:
        fill = {"input_ids": self.pad_token_id, "labels": IGNORE, "mm_token_type_ids": 0}
        batch = {
            key: _pad([torch.cat([example[key] for example in row]) for row in rows], value)
            for key, value in fill.items()
        }
        lengths = torch.tensor([sum(len(example["input_ids"]) for example in row) for row in rows])
        batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        return batch


def _pad(rows: list[Tensor], value: int) -> Tensor:
    return pad_sequence(rows, batch_first=True, padding_value=value)


def _sequences(rows: list[list[Example]]) -> dict[str, Tensor]:
    lengths = [[len(example["input_ids"]) for example in row] for row in rows]
    positions = [torch.cat([torch.arange(length) for length in row]) for row in lengths]
    numbers = [torch.arange(len(row)).repeat_interleave(torch.tensor(row)) for row in lengths]
    return {"position_ids": _pad(positions, 0), "sequence_ids": _pad(numbers, -1)}


def _videos(examples: list[Example]) -> dict[str, Tensor]:
    """Concatenate videos; what video_token_pooling counts becomes the patches of all frames together."""
    examples = [example for example in examples if "video_grids" in example]
    if not examples:
        return {}
    shape = examples[0]["pixel_values_videos"].shape[1:]
    pooling, num_patches = [], 0
    for example in examples:
        pixels, index = example["pixel_values_videos"], example["video_token_pooling"]
        if pixels.shape[1:] != shape:
            raise ValueError(
                f"example {example['id']!r} has frames of {tuple(pixels.shape[1:])} (patches, values), the "
                f"batch began with {tuple(shape)}: process all with one VideoProcessor"
            )
        pooling.append(torch.where(index >= 0, index + num_patches, index))
        num_patches += pixels.shape[0] * pixels.shape[1]
    return {
        "pixel_values_videos": torch.cat([example["pixel_values_videos"] for example in examples]),
        "video_token_pooling": torch.cat(pooling),
        "video_grids": torch.cat([example["video_grids"] for example in examples]),
    }


def _layout(rows: list[list[Example]]) -> BatchLayout:
    videos = [
        (r, frames) for r, row in enumerate(rows) for example in row for frames, _, _ in _grids(example)
    ]
    return BatchLayout(
        frames_per_video=tuple(frames for _, frames in videos),
        lengths=tuple(sum(len(example["input_ids"]) for example in row) for row in rows),
        video_rows=tuple(row for row, _ in videos),
    )


def _grids(example: Example) -> list[list[int]]:
    """[T, rows, columns of windows] of each video of an example: one or none."""
    return example["video_grids"].tolist() if "video_grids" in example else []
