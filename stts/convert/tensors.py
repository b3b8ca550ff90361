"""Tensors on disk, one at a time: model.pt, torch's sharded checkpoints, safetensors.

Nothing but tensors comes out of a file: pickles that ask for anything else are refused. model.pt and
safetensors are memory-mapped, so that a tensor takes memory only while, and as far as, it is looked at.
"""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import Tensor

from ..files.shards import Shapes, ShardReader

SHARD_BYTES = 2 * 2**30
"""Most a safetensors file holds, but for a single tensor that is larger."""
MODEL_FILE = "model.pt"
SHARDED_FOLDER = "model_and_optim"
"""Where a training run keeps its sharded weights, beside its config.yaml."""


@dataclass(frozen=True)
class Weights:
    """Names and shapes of what a checkpoint holds, and how to read one of its tensors."""

    shapes: Shapes
    read: Callable[[str], Tensor]


def find_checkpoint(source: Path) -> Path:
    """The model.pt file, or the folder of a sharded checkpoint, that a path stands for.

    source: that itself, or the folder of a training run around it. Raises ValueError when there is neither.
    """
    if source.is_file():
        return source
    if not source.is_dir():
        raise ValueError(f"{source}: no such file or folder")
    for folder in (source, source / SHARDED_FOLDER):
        if (folder / MODEL_FILE).is_file():
            return folder / MODEL_FILE
        if (folder / ".metadata").is_file():
            return folder
    hint = "; it looks like a Hugging Face folder already" if (source / "config.json").exists() else ""
    raise ValueError(f"{source} holds neither {MODEL_FILE} nor a sharded checkpoint (.metadata){hint}")


def open_checkpoint(path: Path) -> Weights:
    """Read what find_checkpoint found. Raises ValueError, naming the file, if it is damaged or not tensors only."""
    return _open_sharded(path) if path.is_dir() else _open_model_file(path)


def _open_model_file(path: Path) -> Weights:
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is not a checkpoint: torch.save writes zip files, this is none or cut short"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} holds more than tensors and is not loaded: {reason}") from error
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is not a checkpoint, or damaged: {error}") from error
    if not isinstance(state, dict) or not state:
        raise ValueError(f"{path} holds {type(state).__name__}, must be a dict of tensors")
    odd = [
        str(name)
        for name, value in state.items()
        if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if odd:
        raise ValueError(f"{path} must be a dict of tensors, but {', '.join(odd[:5])} are none")
    return Weights({name: tuple(tensor.shape) for name, tensor in state.items()}, state.__getitem__)


def _open_sharded(folder: Path) -> Weights:
    """Reads through torch's own planner: any number of shards, written on any number of devices."""
    reader = ShardReader(folder)
    entries = reader.read_metadata().state_dict_metadata
    tensors = {name: entry for name, entry in entries.items() if hasattr(entry, "size")}
    prefix = "model." if any(name.startswith("model.") for name in tensors) else ""  # beside optim.
    tensors = {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}

    def read(name: str) -> Tensor:
        tensor = torch.empty(tensors[name].size, dtype=tensors[name].properties.dtype)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="torch.distributed is")  # one process: as intended
                dcp.load({prefix + name: tensor}, storage_reader=reader, no_dist=True)
        except dcp.CheckpointException as error:
            raise ValueError(f"cannot read {name} from {folder}: {error}") from error
        return tensor

    return Weights({name: tuple(entry.size) for name, entry in tensors.items()}, read)


def write_folder(folder: Path, tensors: Iterable[tuple[str, Tensor]]) -> torch.dtype:
    """Write safetensors and their index as transformers names them; holds the tensors of one file at a time.

    Returns the dtype most of the bytes have.
    """
    shards: list[list[str]] = []
    stored: Counter[torch.dtype] = Counter()
    for shard in _shards(tensors):
        save_file(shard, folder / f"{len(shards)}.safetensors", metadata={"format": "pt"})
        shards.append(list(shard))
        for tensor in shard.values():
            stored[tensor.dtype] += tensor.nbytes
        del shard, tensor  # or they would stay until the next file is full
    places = {}
    for i, names in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        if len(shards) == 1:
            file = "model.safetensors"
        (folder / f"{i}.safetensors").rename(folder / file)
        places |= dict.fromkeys(names, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": stored.total()}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True))
    return stored.most_common(1)[0][0]


def _shards(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    for name, tensor in tensors:
        if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > SHARD_BYTES:
            yield shard
            shard = {}
        if any(t.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr() for t in shard.values()):
            tensor = tensor.clone()  # safetensors refuses two names for the same memory
        shard[name] = tensor.contiguous()
    yield shard
