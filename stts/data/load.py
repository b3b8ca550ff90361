"""The data of a spec: found, generated or converted."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from .spec import DataSpec, JsonlData, LlavaVideoData, PublishedData, SyntheticData
from .video.config import FOLDER_FPS


@dataclass(frozen=True)
class DataPaths:
    """Files to read: JSONL for training and for testing (None = there is none) and the root of the videos."""

    train: Path
    test: Path | None
    root: Path | None
    folder_fps: float = FOLDER_FPS
    """Images a second of videos that are folders of them."""


def prepare_data(spec: DataSpec) -> None:
    """Find all data of a spec, as load_data does, before anything slow begins."""
    for part in spec.parts.values():
        load_data(part)


def load_data(spec: DataSpec, default_folder: str | PathLike = "outputs/data/synthetic") -> DataPaths:
    """Find the data of one dataset, generating or converting it first where it is not there as JSONL.

    Raises ValueError when a file of the spec does not exist, and for a mixture, which has several.
    """
    if isinstance(spec, SyntheticData):
        from .synthetic.clips import make_synthetic  # writes videos: an encoder that reading needs not

        folder = Path(make_synthetic(spec.folder or default_folder, **spec.settings))
        return DataPaths(folder / "train.jsonl", folder / "test.jsonl", folder)
    if not isinstance(spec, JsonlData | PublishedData):
        raise ValueError("data=mixture has several files and none to test on; choose one dataset")
    if spec.root is not None and not Path(spec.root).is_dir():
        raise ValueError(f"data.root is {spec.root}, no such folder")
    if isinstance(spec, JsonlData):
        return _own_files(spec)
    from .readers import convert

    rate = spec.folder_fps if isinstance(spec, LlavaVideoData) else FOLDER_FPS
    return DataPaths(*convert(spec), folder_fps=rate)


def _own_files(spec: JsonlData) -> DataPaths:
    test = Path(spec.test_annotations) if spec.test_annotations else None
    root = Path(spec.root) if spec.root else None
    paths = DataPaths(Path(spec.annotations), test, root, spec.folder_fps)
    for key, path in (("annotations", paths.train), ("test_annotations", paths.test)):
        if path is not None and not path.is_file():
            raise ValueError(f"data.{key} is {path}, no such file")
    return paths
