"""Where examples come from, as settings: one class for each kind of data, chosen by `name`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..rules import above, at_least, between, check_rules, one_of, or_null, rule
from ..settings.typed import from_dict
from .video.config import FOLDER_FPS

FPS = rule(lambda fps: 0 < fps < float("inf"), "above 0 images a second")


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """What every kind of data has. `DataSpec.from_dict` makes the kind that `name` says.

    Raises ValueError, naming the key, for a value that is out of range.
    """

    name: ClassVar[str]

    weight: float | None = field(default=None, metadata=or_null(above(0)))
    """In a mixture: share of the examples drawn, to any sum. None: its number of examples."""
    decode_timeout: float | None = field(default=None, metadata=or_null(above(0)))
    """Seconds that reading a video may take. None: any."""
    max_bad_fraction: float = field(default=0.0, metadata=between(0, 1))
    """Share of the training examples that may be unreadable; with more, training stops."""

    def __post_init__(self) -> None:
        check_rules(self, "data", weight="weight")

    @property
    def parts(self) -> Mapping[str, DataSpec]:
        """Name -> each dataset that examples are drawn from; one without a name where this is no mixture."""
        return {"": self}

    def replace(self, **changes: Any) -> DataSpec:
        """A copy with other values."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataSpec:
        """From the data section of a config, where the keys of synthetic data are the generator's.

        Raises ValueError naming the key that the kind does not have, lacks, or has another type or range for.
        """
        name = values.get("name", SyntheticData.name)
        if name not in KINDS:
            raise ValueError(f"data.name is {name!r}, must be one of {', '.join(map(repr, KINDS))}")
        given = {key: value for key, value in values.items() if key != "name"}
        _check_keys(name, given)
        if "annotations" in _keys(name) and not given.get("annotations"):
            raise ValueError("data.annotations is not set: give the file, data.annotations=PATH")
        if name == SyntheticData.name:
            own = {key: given.pop(key) for key in _keys(name) if key in given}
            given = own | {"settings": given}
        if name == MixtureData.name:
            given["datasets"] = _parts(given.get("datasets") or {})
        return from_dict(KINDS[name], given, "data")


@dataclass(frozen=True)
class JsonlData(DataSpec):
    """Your own examples, in the form that docs/data.md describes."""

    name: ClassVar[str] = "jsonl"

    annotations: str
    """File of training examples."""
    test_annotations: str | None = None
    """File of held-out examples."""
    root: str | None = None
    """Folder the videos are relative to; None: the folder of each file."""
    folder_fps: float = field(default=FOLDER_FPS, metadata=FPS)
    """Images a second of a video that is a folder of them (data/video/frame_folder.py)."""


@dataclass(frozen=True)
class SyntheticData(DataSpec):
    """Clips that are generated."""

    name: ClassVar[str] = "synthetic"

    folder: str | None = None
    """Where they are written once and found again. None: in outputs/data."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What make_synthetic is called with: num_train, num_test, seed, ..."""


@dataclass(frozen=True)
class PublishedData(DataSpec):
    """Annotations as others have published them."""

    annotations: str
    """A file, or a folder of them."""
    root: str | None = None
    """Folder of the videos; None: that of the annotations."""
    folder: str | None = None
    """Where the annotations are written as JSONL, once. None: in outputs/data."""
    max_turns: int = field(default=1, metadata=at_least(1))
    """Questions about one video that share its tokens in one example, at most."""
    missing_videos: str = field(default="error", metadata=one_of("error", "skip"))
    """"error", or "skip" to leave out what is asked about videos that are not there."""


@dataclass(frozen=True)
class LlavaVideoData(PublishedData):
    """LLaVA-Video-178K."""

    name: ClassVar[str] = "llava_video"

    folder_fps: float = field(default=FOLDER_FPS, metadata=FPS)
    """Images a second of a video that is a folder of them, as LLaVA-Hound's are."""


@dataclass(frozen=True)
class Molmo2Data(PublishedData):
    """Molmo2's video sets."""

    name: ClassVar[str] = "molmo2"


@dataclass(frozen=True)
class MixtureData(DataSpec):
    """Several of the others, each with its share of the examples drawn."""

    name: ClassVar[str] = "mixture"

    datasets: Mapping[str, DataSpec]
    """Name -> what is in it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.datasets:
            raise ValueError("data.datasets is empty: name what to mix, see configs/data/mixture.yaml")

    @property
    def parts(self) -> Mapping[str, DataSpec]:
        """Each with the time that the whole mixture gives a video."""
        shared = {"decode_timeout": self.decode_timeout}
        return {name: part.replace(**shared) for name, part in self.datasets.items()}


KINDS = {kind.name: kind for kind in (SyntheticData, JsonlData, LlavaVideoData, Molmo2Data, MixtureData)}


def _keys(name: str) -> set[str]:
    """The settings of a kind, as a config has them."""
    return {found.name for found in dataclasses.fields(KINDS[name])} - {"settings"}


def _check_keys(name: str, given: Mapping[str, Any]) -> None:
    """Raises ValueError for a key of another kind, and one that no kind has unless it may be the generator's."""
    for key in given:
        if key in _keys(name):
            continue
        if others := [f"data={other}" for other in KINDS if key in _keys(other)]:
            raise ValueError(f"data.{key} has no meaning with data.name={name}, add {' or '.join(others)}")
        if name != SyntheticData.name:
            raise ValueError(
                f"data.{key} is unknown, data.name={name} takes {', '.join(sorted(_keys(name)))}"
            )


def _parts(datasets: Mapping[str, Any]) -> dict[str, DataSpec]:
    """The datasets of a mixture, each a data section of its own."""
    parts = {}
    for name, values in datasets.items():
        if not isinstance(values, Mapping) or values.get("name") == MixtureData.name:
            raise ValueError(f"data.datasets.{name} is {values!r}, must be the settings of one dataset")
        try:
            parts[name] = DataSpec.from_dict(values)
        except ValueError as error:
            raise ValueError(f"data.datasets.{name}: {error}") from error
    return parts
