"""Looking training data over before a run: what is wrong, how long examples are, how long an epoch is.

Every row is checked and every video opened and measured as training would sample it, by several processes. Frames
are decoded only when asked for: that finds damage inside a file, and takes as long as an epoch of training reads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from ..files.durable import write_whole
from ..pruning.config import STTSConfig
from ..pruning.selection import num_dropped
from .datasets import Mixture, VideoQADataset
from .feed.budget import Budget, Size, look_ahead
from .feed.order import Order
from .foreign import row_notes
from .load import load_data
from .processors.base import IGNORE, Processor
from .rowfile import index_rows
from .rows import check_row, row_messages
from .spec import DataSpec, MixtureData
from .video.config import VideoConfig
from .video.guarded import GuardedReader
from .video.read import probe_video, read_video


@dataclass(frozen=True)
class Measured:
    """One example as training will see it."""

    size: Size
    tokens: int
    """Before pruning."""
    supervised: int


@dataclass
class Findings:
    """What was found."""

    wrong: list[str] = field(default_factory=list)
    """Problems, each naming file, line and id."""
    measured: dict[int, Measured] = field(default_factory=dict)
    """By number in the data."""
    unreadable: set[int] = field(default_factory=set)
    """Numbers of examples that could not be measured."""
    notes: list[str] = field(default_factory=list)
    """What is odd, but not wrong."""
    num_rows: int = 0
    """Rows there are, wrong ones included."""


class Probe(Dataset):
    """Number of an example -> Measured, or the text of what is wrong with it."""

    def __init__(self, data: VideoQADataset, prune_ratio: float, decode: bool) -> None:
        self.data, self.prune_ratio = data, prune_ratio
        read = partial(read_video, min_decoded=1.0) if decode else probe_video
        data.read = GuardedReader(data.read.timeout, read) if isinstance(data.read, GuardedReader) else read

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Measured | str:
        try:
            return self._measure(index)
        except (ValueError, OSError) as error:
            text, name = str(error), self.data.name_of(index)
            return text if text.startswith(name) else f"{name}: {text}"

    def _measure(self, index: int) -> Measured:
        row = self.data.rows[index]
        clip = None if row["video"] is None else self.data.read_clip(index, row)
        text = self.data.processor.text_tensors(row_messages(row), clip)
        units, rows, cols = (0, 0, 0) if clip is None else self.data.processor.window_grid(clip)
        tokens = len(text["input_ids"])
        dropped = num_dropped(units, rows * cols, self.prune_ratio) if units else 0
        supervised = int((text["labels"][1:] != IGNORE).sum())
        return Measured(Size(tokens - dropped, units * self.data.processor.unit_frames), tokens, supervised)


def check_data(
    spec: DataSpec,
    processor: Processor,
    stts: STTSConfig,
    video: VideoConfig,
    workers: int,
    limit: int | None = None,
    decode: bool = False,
) -> tuple[Findings, Order]:
    """Look at all training data of a spec, or at `limit` of its examples, drawn at random, with so many processes.

    Returns what was found, and the order in which training draws the examples that are not wrong by their rows.
    """
    findings, parts = Findings(), {}
    for name, part in spec.parts.items():
        if data := _open(part, processor, video, findings):
            parts[name] = Probe(data, stts.prune_ratio, decode)
    if not parts:
        return findings, Order([1], 0)
    is_mixture = isinstance(spec, MixtureData)
    whole = Mixture(parts, {name: part.weight for name, part in spec.parts.items()} if is_mixture else None)
    numbers = range(len(whole))
    if limit is not None and limit < len(whole):
        numbers = np.sort(np.random.default_rng(0).choice(len(whole), limit, replace=False)).tolist()
    for number, found in zip(numbers, _probe(whole, numbers, workers), strict=True):
        if isinstance(found, str):
            findings.wrong.append(found)
            findings.unreadable.add(number)
        else:
            findings.measured[number] = found
    return findings, Order(whole.sizes, 0, whole.weights if is_mixture else None)


def _open(
    spec: DataSpec, processor: Processor, video: VideoConfig, findings: Findings
) -> VideoQADataset | None:
    """The rows of one dataset that are not wrong; None when all are. The others go to the findings."""
    paths, problems = load_data(spec), []
    rows = index_rows(Path(paths.train), check_row, lambda error: problems.append(str(error)), row_notes)
    findings.notes += [f"{paths.train}: {note}: {count} rows" for note, count in rows.notes.items()]
    rows.notes = {}  # told here
    findings.wrong += problems
    findings.num_rows += len(problems) + len(rows)
    if not len(rows):
        return None
    settings = {"decode_timeout": spec.decode_timeout, "folder_fps": paths.folder_fps, "rows": rows}
    return VideoQADataset(paths.train, paths.root, processor, video, **settings)


class _Parts(Dataset):
    """The probes of a mixture, numbered through."""

    def __init__(self, whole: Mixture) -> None:
        self.whole = whole

    def __getitem__(self, number: int) -> Measured | str:
        part, place = self.whole.find(number)
        return self.whole.parts[part][place]


def _probe(whole: Mixture, numbers: Sequence[int], workers: int) -> Iterator[Measured | str]:
    return iter(
        DataLoader(_Parts(whole), batch_size=None, sampler=numbers, num_workers=workers, collate_fn=_as_it_is)
    )


def _as_it_is(item: Any) -> Any:
    return item


def write_lengths(findings: Findings, path: Path) -> None:
    """The lengths of every example that was measured, before pruning, as JSON: {"frames": [...], ...}."""
    found = list(findings.measured.values())
    lengths = {"frames": [m.size.frames for m in found], "tokens": [m.tokens for m in found]}
    write_whole(path, json.dumps(lengths | {"supervised": [m.supervised for m in found]}) + "\n")


@dataclass(frozen=True)
class Epoch:
    """One pass over the data by one process."""

    examples: int
    tokens: int
    """That survive pruning."""
    frames: int
    rows: int
    batches: int
    """Forward passes of one process, were it alone."""
    too_long: int
    """Examples that no row can hold."""


def measure_epoch(
    findings: Findings, order: Order, budget: Budget, batch_size: int, pack_buffer: int
) -> Epoch:
    """Draw an epoch in order, as training does, and count. One that was not looked at counts as an average one."""
    drawn = [order[position] for position in range(order.num_examples)]
    sizes = [findings.measured[number].size for number in drawn if number in findings.measured]
    fitting = [size for size in sizes if budget.holds(size)]
    rows, batches = _batches(fitting, budget, batch_size, pack_buffer)
    tokens, frames = sum(size.tokens for size in fitting), sum(size.frames for size in fitting)
    totals = (len(fitting), tokens, frames, rows, batches, len(sizes) - len(fitting))
    looked_at = len(sizes) + sum(number in findings.unreadable for number in drawn)
    return Epoch(*(round(total * len(drawn) / max(looked_at, 1)) for total in totals))


def _batches(sizes: list[Size], budget: Budget, batch_size: int, pack_buffer: int) -> tuple[int, int]:
    """Rows and batches that examples make in this order."""
    if not pack_buffer:
        return len(sizes), math.ceil(len(sizes) / batch_size)
    coming, waiting, rows, batches = iter(sizes), [], 0, 0
    while True:
        waiting += islice(coming, pack_buffer - len(waiting))
        if not waiting:
            return rows, batches
        waiting, full = _take(waiting, budget, batch_size)
        rows, batches = rows + full, batches + 1


def _take(waiting: list[Size], budget: Budget, num_rows: int) -> tuple[list[Size], int]:
    """What goes on waiting when a batch was made, and the rows of that batch."""
    rows = look_ahead(waiting, budget, num_rows)
    taken = {i for row in rows for i in row}
    return [size for i, size in enumerate(waiting) if i not in taken], len(rows)
