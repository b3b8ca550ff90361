"""The torch Datasets of training: one file of video-QA examples, and mixtures of several."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import asdict
from itertools import accumulate
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from .evidence import evidence_scores
from .load import load_data
from .processors.base import Processor, evidence_in
from .rowfile import RowFile
from .rows import checked_rows, resolve_video, row_messages
from .spec import DataSpec, MixtureData
from .video.config import FOLDER_FPS, VideoConfig
from .video.guarded import GuardedReader
from .video.read import Clip, read_video

logger = logging.getLogger(__name__)


class VideoQADataset(Dataset):
    """Examples of one JSONL file, decoded and processed when asked for; the file itself stays on disk.

    annotations: the JSONL file; root: folder of the videos, None: that of the file.
    frames: at most so many of each clip, or all that a VideoConfig says of them.
    decode_timeout: seconds that reading a video may take (None: any).
    max_bad_fraction: share of the examples that training may find unreadable and go on.
    folder_fps: images a second of videos that are folders of them.
    rows: those of the file that count; None: all.

    Every row is checked at once, its video only when it is read. Raises ValueError naming file and line.
    """

    def __init__(
        self,
        annotations: str | PathLike,
        root: str | PathLike | None,
        processor: Processor,
        frames: int | VideoConfig,
        decode_timeout: float | None = None,
        max_bad_fraction: float = 0.0,
        folder_fps: float = FOLDER_FPS,
        rows: RowFile | None = None,
    ) -> None:
        self.annotations = Path(annotations)
        self.root = self.annotations.parent if root is None else Path(root)
        self.processor = processor
        self.video = frames if isinstance(frames, VideoConfig) else VideoConfig(frames)
        self.folder_fps = folder_fps
        self.read = GuardedReader(decode_timeout) if decode_timeout is not None else read_video
        self.max_bad_fraction = max_bad_fraction
        self.rows = checked_rows(self.annotations) if rows is None else rows
        self.lines = self.rows.lines
        if self.rows.notes:
            told = "; ".join(f"{note}: {count} rows" for note, count in self.rows.notes.items())
            logger.warning("%s: %s", self.annotations, told)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The processor's tensors and "id" (str). Raises VideoError, a ValueError, for a broken video.

        Where the row records "evidence", also window_scores (T, W) float32, by which policy "given" keeps it.
        """
        row = self.rows[index]
        clip = None if row["video"] is None else self.read_clip(index, row)
        try:
            example = self.processor(row_messages(row), clip) | {"id": str(row["id"])}
            if "pixel_values_videos" in example and row.get("evidence") is not None:
                items = evidence_in(self.processor, row["evidence"], clip)
                example["window_scores"] = torch.from_numpy(evidence_scores(items))
            return example
        except ValueError as error:
            raise ValueError(f"{self.name_of(index)}: {error}") from error

    def name_of(self, index: int) -> str:
        """Where an example stands, for messages: file, line and id."""
        return f"{self.annotations}:{self.lines[index]} (id {self.rows[index]['id']!r})"

    def read_clip(self, index: int, row: Mapping[str, Any]) -> Clip:
        """The video of a row."""
        try:
            path = resolve_video(self.root, row["video"])
        except ValueError as error:
            raise ValueError(f"{self.name_of(index)}: {error}") from error
        return self.read(
            path,
            **asdict(self.video),
            start=row.get("start"),
            end=row.get("end"),
            size=self.processor.image_size,
            folder_fps=self.folder_fps,
        )


class Mixture(Dataset):
    """Several datasets in one, numbered through, each with its share of what training draws.

    parts: name -> dataset; weights: name -> share, to any sum, a dataset of which nothing is said counting by its
    number of examples. Ids become "name/id".
    """

    def __init__(
        self,
        parts: Mapping[str, Dataset],
        weights: Mapping[str, float | None] | None = None,
        max_bad_fraction: float = 0.0,
    ) -> None:
        if not parts:
            raise ValueError("a mixture needs at least one dataset")
        self.names, self.parts = list(parts), list(parts.values())
        self.sizes = [len(part) for part in self.parts]
        self.ends = list(accumulate(self.sizes))
        given = [(weights or {}).get(name) for name in self.names]
        self.weights = [
            size if weight is None else weight for size, weight in zip(self.sizes, given, strict=True)
        ]
        self.max_bad_fraction = max_bad_fraction

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        part, place = self.find(index)
        example = self.parts[part][place]
        return example | {"id": f"{self.names[part]}/{example['id']}"}

    def name_of(self, index: int) -> str:
        """Where an example stands, for messages."""
        part, place = self.find(index)
        return self.parts[part].name_of(place)

    def find(self, index: int) -> tuple[int, int]:
        """The part that an example is in, and its number in there."""
        part = bisect_right(self.ends, index)
        return part, index - (self.ends[part] - self.sizes[part])


def training_data(
    spec: DataSpec, processor: Processor, frames: int | VideoConfig
) -> VideoQADataset | Mixture:
    """The training examples a spec describes, made or converted first where need be.

    frames: as VideoQADataset takes it.
    """
    if isinstance(spec, MixtureData):
        parts = {name: training_data(part, processor, frames) for name, part in spec.parts.items()}
        weights = {name: part.weight for name, part in spec.parts.items()}
        return Mixture(parts, weights, spec.max_bad_fraction)
    paths = load_data(spec)
    return VideoQADataset(
        paths.train,
        paths.root,
        processor,
        frames,
        decode_timeout=spec.decode_timeout,
        max_bad_fraction=spec.max_bad_fraction,
        folder_fps=paths.folder_fps,
    )
