"""Where examples come from, as settings and as files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..settings.typed import from_dict

OWN = {
    "synthetic": {"folder", "settings"},
    "jsonl": {"annotations", "test_annotations", "root", "folder_fps"},
    "llava_video": {"annotations", "root", "folder", "max_turns", "missing_videos", "folder_fps"},
    "molmo2": {"annotations", "root", "folder", "max_turns", "missing_videos"},
    "mixture": {"datasets"},
}
"""Kinds of data, and the settings that only some of them have."""
ALL = {"name", "weight", "decode_timeout", "max_bad_fraction"}


@dataclass(frozen=True)
class DataSpec:
    """Where examples come from. Raises ValueError, naming the key, for settings that do not go together."""

    name: str = "synthetic"
    """"synthetic" (clips are generated), "jsonl" (your own), "llava_video" or "molmo2" (published annotations), or
    "mixture" of these."""
    annotations: str | None = None
    """jsonl: file of training examples. llava_video, molmo2: a file or a folder of them, as published."""
    test_annotations: str | None = None
    """jsonl: file of held-out examples, optional."""
    root: str | None = None
    """Folder the videos are relative to; by default the folder of each file."""
    folder: str | None = None
    """synthetic: where the clips are written once and found again. llava_video, molmo2: where the annotations are
    written as JSONL. None: in outputs/data."""
    max_turns: int = 1
    """llava_video, molmo2: questions about one video that share its tokens in one example, at most."""
    missing_videos: str = "error"
    """llava_video, molmo2: "error", or "skip" to leave out what is asked about videos that are not there."""
    folder_fps: float = 2.0
    """jsonl, llava_video: images a second of a video that is a folder of them (data/frame_folder.py)."""
    datasets: Mapping[str, DataSpec] = field(default_factory=dict)
    """mixture: name -> what is in it."""
    weight: float | None = None
    """In a mixture: share of the examples drawn, to any sum. None: its number of examples."""
    decode_timeout: float | None = None
    """Seconds that reading a video may take. None: any."""
    max_bad_fraction: float = 0.0
    """Share of the training examples that may be unreadable; with more, training stops."""
    settings: dict[str, Any] = field(default_factory=dict)
    """synthetic: what make_synthetic is called with: num_train, num_test, seed, ..."""

    def __post_init__(self) -> None:
        if self.name not in OWN:
            raise ValueError(f"data.name is {self.name!r}, must be one of {', '.join(map(repr, OWN))}")
        for key in set().union(*OWN.values()) - OWN[self.name]:
            if getattr(self, key) != _default(key):
                raise ValueError(f"data.{key} has no meaning with data.name={self.name}")
        if "annotations" in OWN[self.name] and not self.annotations:
            raise ValueError("data.annotations is not set: give the file, data.annotations=PATH")
        if self.name == "mixture" and not self.datasets:
            raise ValueError("data.datasets is empty: name what to mix, see configs/data/mixture.yaml")
        self._check_ranges()

    def _check_ranges(self) -> None:
        limit, share = self.decode_timeout, self.max_bad_fraction
        if limit is not None and not limit > 0:
            raise ValueError(f"data.decode_timeout is {limit}, must be above 0 seconds, or null for no limit")
        if not 0 <= share <= 1:
            raise ValueError(f"data.max_bad_fraction is {share}, must be in [0, 1]")
        if self.weight is not None and not self.weight > 0:
            raise ValueError(f"weight is {self.weight}, must be above 0, or null for the number of examples")
        if not 0 < self.folder_fps < float("inf"):
            raise ValueError(f"data.folder_fps is {self.folder_fps}, must be above 0 images a second")
        if self.max_turns < 1:
            raise ValueError(f"data.max_turns is {self.max_turns}, must be at least 1")
        if self.missing_videos not in ("error", "skip"):
            raise ValueError(f"data.missing_videos is {self.missing_videos!r}, must be error or skip")

    def replace(self, **changes: Any) -> DataSpec:
        """A copy with other values."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataSpec:
        """From the data section of a config, where the keys of synthetic data are the generator's."""
        name = values.get("name", "synthetic")
        fields = {field.name for field in dataclasses.fields(cls)} - {"settings"}
        rest = {key: value for key, value in values.items() if key not in fields}
        if rest and name in OWN and name != "synthetic":
            own = ", ".join(sorted(ALL | OWN[name]))
            raise ValueError(f"data.{next(iter(rest))} is unknown, data.name={name} takes {own}")
        known = {key: value for key, value in values.items() if key in fields}
        if "datasets" in known:
            known["datasets"] = _parts(known["datasets"] or {})
        return from_dict(cls, known | ({"settings": rest} if rest else {}), "data")


def _default(key: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(DataSpec)}
    made = fields[key].default_factory
    return fields[key].default if made is dataclasses.MISSING else made()


def _parts(datasets: Mapping[str, Any]) -> dict[str, DataSpec]:
    """The datasets of a mixture, each a data section of its own."""
    parts = {}
    for name, values in datasets.items():
        if not isinstance(values, Mapping) or values.get("name") == "mixture":
            raise ValueError(f"data.datasets.{name} is {values!r}, must be the settings of one dataset")
        try:
            parts[name] = DataSpec.from_dict(values)
        except ValueError as error:
            raise ValueError(f"data.datasets.{name}: {error}") from error
    return parts
