"""Where examples come from, as settings and as files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class DataSpec:
    """Where examples come from. Raises ValueError, naming the key, for settings that do not go together."""

    name: str = "synthetic"
    """"synthetic" (clips are generated) or "jsonl" (your own)."""
    annotations: str | None = None
    """jsonl: file of training examples."""
    test_annotations: str | None = None
    """jsonl: file of held-out examples, optional."""
    root: str | None = None
    """jsonl: folder the videos are relative to; by default the folder of each file."""
    folder: str | None = None
    """synthetic: where the clips are written once and found again."""
    settings: dict[str, Any] = field(default_factory=dict)
    """synthetic: what make_synthetic is called with: num_train, num_test, seed, ..."""

    def __post_init__(self) -> None:
        if self.name not in ("synthetic", "jsonl"):
            raise ValueError(f"data.name is {self.name!r}, must be 'synthetic' or 'jsonl'")
        if self.name == "jsonl" and not self.annotations:
            raise ValueError("data.annotations is not set: give the JSONL file, data.annotations=PATH")
        foreign = (
            ("annotations", "test_annotations", "root")
            if self.name == "synthetic"
            else ("folder", "settings")
        )
        if wrong := [key for key in foreign if getattr(self, key)]:
            raise ValueError(f"data.{wrong[0]} has no meaning with data.name={self.name}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataSpec:
        """From the data section of a config, where the keys of synthetic data are the generator's."""
        own = {"name", "annotations", "test_annotations", "root", "folder"}
        rest = {key: value for key, value in values.items() if key not in own}
        if rest and values.get("name", "synthetic") != "synthetic":
            raise ValueError(
                f"data.{next(iter(rest))} is unknown, data.name={values['name']} takes {sorted(own)}"
            )
        return cls(**{key: value for key, value in values.items() if key in own}, settings=rest)


@dataclass(frozen=True)
class DataPaths:
    """Files to read: JSONL for training and for testing (None = there is none) and the root of the videos."""

    train: Path
    test: Path | None
    root: Path | None


def load_data(spec: DataSpec, default_folder: str | PathLike = "outputs/data/synthetic") -> DataPaths:
    """Find the data, generating it first where it is synthetic.

    Raises ValueError when a file of the spec does not exist.
    """
    if spec.name == "synthetic":
        from .synthetic import make_synthetic  # writes videos: an encoder that reading needs not

        folder = Path(make_synthetic(spec.folder or default_folder, **spec.settings))
        return DataPaths(folder / "train.jsonl", folder / "test.jsonl", folder)
    paths = DataPaths(
        Path(spec.annotations),
        Path(spec.test_annotations) if spec.test_annotations else None,
        Path(spec.root) if spec.root else None,
    )
    for key, path in (("annotations", paths.train), ("test_annotations", paths.test)):
        if path is not None and not path.is_file():
            raise ValueError(f"data.{key} is {path}, no such file")
    if paths.root is not None and not paths.root.is_dir():
        raise ValueError(f"data.root is {paths.root}, no such folder")
    return paths
