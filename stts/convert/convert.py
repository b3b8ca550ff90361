"""Published training checkpoints -> Hugging Face folders.

Tensors go from file to file one at a time: what is read is memory-mapped (or, of a sharded checkpoint, one
tensor long), what is written is one safetensors shard long. The whole model is never in memory, and nothing
appears under its name before it is complete.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from torch import Tensor
from transformers import Molmo2Config

from ..files.durable import whole_folder
from ..files.make_once import MARKER
from ..files.shards import Shapes
from ..hosts.molmo2_names import HEAD, SCORER, published_shapes, released_name
from ..pruning.config import STTSConfig
from .sizes import (
    TAKE_LIKE,
    molmo2_config,
    read_training_config,
    stts_settings,
    weight_tying,
)
from .tensors import (
    SHARDED_FOLDER,
    find_checkpoint,
    open_checkpoint,
    write_folder,
)
from .whole import with_tied_head, without_surplus

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
COMPANIONS = ("*.json", "*.jinja", "*.txt")
"""Tokenizer, chat template and the like. No code."""


def from_published(
    source: str | Path,
    folder: str | Path,
    like: str | Path | None = None,
    num_heads: int | None = None,
    prune_ratio: float | None = None,
    dtype: str | None = None,
    tied: bool = False,
) -> list[str]:
    """Turn a training checkpoint into a folder for STTSMolmo2ForConditionalGeneration.from_pretrained.

    source: model.pt, a sharded checkpoint, or the training run's folder around either; folder: new or empty;
    like: folder or hub id of the Molmo2 it was trained from, to take config.json and the tokenizer from (from a
    hub id no weights are fetched), None: the sizes of the config.yaml beside the weights, and no tokenizer.
    num_heads: of the scorer's pooling, which tensors do not tell, None: as many as the ViT, as published;
    prune_ratio: None: as trained; dtype: of the tensors written, None: as stored; tied: the checkpoint has no
    output head because it is the table of words (else config.yaml's weight_tying says so).

    Returns remarks, a sentence each. Raises ValueError listing tensors that are missing, unexpected or of
    another shape than the sizes say, and naming files that cannot be read.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}, must be one of {', '.join(DTYPES)}")
    folder = _free(folder)
    path = find_checkpoint(Path(source).expanduser())
    training, origin = _training_config(path), None if like is None else _like_folder(like)
    if not training and not origin:
        raise ValueError(f"there is no config.yaml beside {path}: {TAKE_LIKE}")
    config = _molmo2_config(origin) if origin else molmo2_config(training)
    weights, remarks = without_surplus(open_checkpoint(path), config)
    asked = {"prune_ratio": prune_ratio, "scorer_num_heads": num_heads}
    config.stts = _stts_config(config, weights.shapes, training, asked).to_dict()
    if HEAD not in weights.shapes and (tied or weight_tying(training)):
        weights = with_tied_head(weights)
    expected = published_shapes(config)
    check_tensors(weights.shapes, expected, path)
    with whole_folder(folder) as partial:
        if origin:
            _copy_companions(origin, partial)
        else:
            remarks.append("There is no tokenizer in it: copy one in, or convert with --like FOLDER.")
        tensors = ((released_name(name), _cast(weights.read(name), dtype)) for name in expected)
        config.dtype = write_folder(partial, tensors)
        config.architectures = ["STTSMolmo2ForConditionalGeneration"]
        config.save_pretrained(partial)
    return remarks


def check_tensors(found: Mapping[str, tuple[int, ...]], expected: Shapes, where: Path) -> None:
    """Raises ValueError, listing names, unless both have the same names and shapes."""
    problems = [f"missing: {name} {expected[name]}" for name in expected if name not in found]
    problems += [f"unexpected: {name} {found[name]}" for name in found if name not in expected]
    problems += [
        f"wrong shape: {name} is {found[name]}, must be {shape}"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    ]
    if not problems:
        return
    if HEAD in expected and HEAD not in found:
        problems.append(f"({HEAD} is missing where the head shares the word embeddings: say so with --tied)")
    raise ValueError("\n  ".join([f"{where} does not fit the model it should hold:", *problems]))


def _free(folder: str | Path) -> Path:
    """The folder. Raises ValueError if there is something in it."""
    folder = Path(folder).expanduser().absolute()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} exists already; give a new or an empty folder to write to")
    return folder


def _training_config(checkpoint: Path) -> dict[str, Any]:
    """The model section of the config.yaml beside a checkpoint; empty when there is none."""
    around = checkpoint.parent if checkpoint.is_file() or checkpoint.name == SHARDED_FOLDER else checkpoint
    path = around / "config.yaml"
    return read_training_config(path) if path.exists() else {}


def _like_folder(like: str | Path) -> Path:
    """A local folder with config.json and tokenizer; of a hub id only these files are fetched."""
    folder = Path(like).expanduser()
    if folder.exists() or not re.fullmatch(r"\w[\w.-]*/[\w.-]+", str(like)):
        return folder
    try:
        return Path(snapshot_download(str(like), allow_patterns=list(COMPANIONS)))
    except (OSError, HFValidationError) as error:
        raise ValueError(
            f"--like is {str(like)!r}: there is no such folder here, and from the hub it cannot be fetched: {error}"
        ) from error


def _molmo2_config(folder: Path) -> Molmo2Config:
    """config.json of a folder, the ViT trimmed to its deepest feature. Raises ValueError unless it is a Molmo2's."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no config.json; it must be the folder of a Molmo2")
    try:
        if (found := json.loads(path.read_text())["model_type"]) != "molmo2":
            raise ValueError(f"its model_type is {found!r}, must be 'molmo2'")
        config = Molmo2Config.from_pretrained(folder)
    except (StrictDataclassError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not the config of a Molmo2: {error}") from error
    if hasattr(config, "auto_map"):
        del config.auto_map  # names code that is not copied
    return config


def _stts_config(
    config: Molmo2Config, shapes: Shapes, training: Mapping[str, Any], asked: Mapping[str, Any]
) -> STTSConfig:
    """Settings: what was asked for, else what the training config says, else what was published."""
    first, second = (shapes.get(f"{SCORER}mlp.{layer}.weight", ()) for layer in ("w1", "w2"))
    values = {
        "scorer_activation": "silu",
        "scorer_num_heads": config.vision_config.num_attention_heads,
        "scorer_hidden_dims": (first[0], second[0]) if first and second else None,
        **stts_settings(training),
        **{name: value for name, value in asked.items() if value is not None},
    }
    try:
        return STTSConfig(**values)
    except ValueError as error:
        raise ValueError(f"a pruning setting, of config.yaml or asked for, does not fit: {error}") from error


def _cast(tensor: Tensor, dtype: str | None) -> Tensor:
    return tensor if dtype is None else tensor.to(DTYPES[dtype])


def _copy_companions(source: Path, folder: Path) -> None:
    for file in sorted(file for pattern in COMPANIONS for file in source.glob(pattern)):
        if file.name not in ("config.json", MARKER) and not file.name.endswith(".index.json"):
            shutil.copyfile(file, folder / file.name)
