"""Tensors of a sharded folder, one at a time, without running what its pickles name."""

from __future__ import annotations

import pickle
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import filesystem, metadata

Shapes = dict[str, tuple[int, ...]]


class ShardReader(dcp.FileSystemReader):
    """torch's, except that .metadata is read once, and with no more trust than tensors are."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        path = folder / ".metadata"
        try:
            with path.open("rb") as file:
                self._metadata = _MetadataUnpickler(file).load()
        except (
            pickle.UnpicklingError,
            EOFError,
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
        ) as error:
            raise ValueError(f"{path} is not the index of a sharded checkpoint: {error}") from error
        if not isinstance(self._metadata, metadata.Metadata) or not self._metadata.storage_data:
            raise ValueError(f"{path} is not the index of a sharded checkpoint")

    def read_metadata(self, *args: Any, **kwargs: Any) -> metadata.Metadata:
        return self._metadata


class _MetadataUnpickler(pickle.Unpickler):
    """Plain pickle would run whatever a file tells it to; this knows the classes an index consists of."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_StorageInfo":  # training code brings a copy of torch's under its own name
            return filesystem._StorageInfo
        if module == metadata.__name__ and name in _METADATA_CLASSES:
            return getattr(metadata, name)
        if module == "torch" and (name == "Size" or isinstance(getattr(torch, name, None), torch.dtype)):
            return getattr(torch, name)
        if (module, name) == ("torch.serialization", "_get_layout"):
            return torch.serialization._get_layout
        if module.startswith("pathlib"):
            return PurePosixPath
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no index needs")


_METADATA_CLASSES = (*metadata.__all__, "_MEM_FORMAT_ENCODING")
