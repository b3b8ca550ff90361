"""The torch Dataset over one file of video-QA examples."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from .processing import VideoProcessor
from .rows import answer_index, checked_rows, read_jsonl, resolve_video, row_messages
from .spec import DataPaths, DataSpec, load_data
from .video import Clip, read_video

__all__ = [
    "DataPaths",
    "DataSpec",
    "VideoQADataset",
    "answer_index",
    "load_data",
    "read_jsonl",
    "resolve_video",
    "row_messages",
]


class VideoQADataset(Dataset):
    """Examples of one JSONL file, decoded and processed when asked for.

    annotations: the JSONL file; root: folder of the videos, by default that of the file; frames: at most so
    many of each clip; max_fps, sampling and backend as in read_video. Every row is checked at once, its video
    only when it is read. Raises ValueError naming file and line.
    """

    def __init__(
        self,
        annotations: str | PathLike,
        root: str | PathLike | None,
        processor: VideoProcessor,
        frames: int,
        max_fps: float = 2.0,
        sampling: str = "time",
        backend: str = "auto",
    ) -> None:
        if frames < 1:
            raise ValueError(f"frames is {frames}, must be at least 1")
        self.annotations = Path(annotations)
        self.root = self.annotations.parent if root is None else Path(root)
        self.processor = processor
        self.frames, self.max_fps = frames, max_fps
        self.sampling, self.backend = sampling, backend
        self.lines, self.rows = checked_rows(self.annotations)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The processor's tensors and "id" (str). Raises VideoError, a ValueError, for a broken video."""
        row = self.rows[index]
        clip = None if row["video"] is None else self._read_clip(index)
        try:
            return self.processor(row_messages(row), clip) | {"id": str(row["id"])}
        except ValueError as error:
            raise ValueError(f"{self._place(index)}: {error}") from error

    def _read_clip(self, index: int) -> Clip:
        row = self.rows[index]
        try:
            path = resolve_video(self.root, row["video"])
        except ValueError as error:
            raise ValueError(f"{self._place(index)}: {error}") from error
        return read_video(
            path,
            self.frames,
            max_fps=self.max_fps,
            start=row.get("start"),
            end=row.get("end"),
            size=self.processor.image_size,
            backend=self.backend,
            sampling=self.sampling,
        )

    def _place(self, index: int) -> str:
        return f"{self.annotations}:{self.lines[index]} (id {self.rows[index]['id']!r})"
