"""What a model's folder may be wrong with: each is refused, or told, by the name of the file, tensor or setting."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

SCORER_PREFIX = "model.vision_tower.scorer."
LAYERS_PREFIX = "model.language_model.layers."
SMALL_FILES = ("generation_config.json", "processor_config.json", "tokenizer_config.json")
"""Beside config.json, where a folder has them."""
TOLD = 3
"""Names in a message about many tensors."""


class BadFolder(ValueError):  # noqa: N818 (of a model)
    """A model's folder is not what it must be; the text names the folder and what is wrong."""


def read_json(path: Path) -> dict[str, Any]:
    """A file with one JSON object. Raises BadFolder, naming it, when it is not that."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadFolder(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadFolder(f"{path} holds a {type(value).__name__}, must be a JSON object")
    return value


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a Molmo2. Raises BadFolder when it is that of something else, or lacks the sizes of a part, for
    which transformers would take those of its largest model; and for a small file beside it that is no JSON."""
    path = folder / "config.json"
    config = read_json(path)
    if config.get("model_type") != "molmo2":
        raise BadFolder(
            f"{folder} holds a {config.get('model_type')!r} model, must be 'molmo2' ({path.name})"
        )
    for name in SMALL_FILES:
        if (folder / name).exists():
            read_json(folder / name)
    for names in (("text_config",), ("adapter_config",), ("vision_config", "vit_config")):
        if not any(isinstance(config.get(name), dict) and config[name] for name in names):
            raise BadFolder(
                f"{path}: {names[0]} is {config.get(names[0])!r}, must hold the sizes of that part"
            )
    return config


def weight_files(folder: Path) -> set[str]:
    """Names of the safetensors that a folder says it has. Raises BadFolder for an index that is none."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return {"model.safetensors"}
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise BadFolder(f"{index} must say in weight_map which file each tensor is in; copy the folder again")
    return set(places.values())


def check_size(folder: Path, model: nn.Module) -> None:
    """Raises BadFolder where a model, on the meta device, is much larger than a folder's weights: what is not in them
    would be made up first, and refused only then."""
    wanted = sum(p.numel() for name, p in model.named_parameters() if not name.startswith(SCORER_PREFIX))
    stored = 0
    for name in weight_files(folder):
        try:
            with safe_open(folder / name, framework="pt") as file:
                stored += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise BadFolder(f"cannot read {folder / name}: {error}") from error
    if wanted > 1.5 * stored:
        raise BadFolder(
            f"{folder}: its config.json describes a model of {wanted:,} parameters, its weights are {stored:,}: "
            "they do not belong together"
        )


def check_frame_size(vision: Any, where: str | PathLike) -> None:
    """Raises BadFolder unless frames of the size in a Molmo2's vision_config have as many patches as positions."""
    height, width = vision.image_size
    if height != width:
        raise BadFolder(f"{where} takes {height} x {width} pixels, frames must be square")
    if vision.patch_size < 1 or height < 1 or height % vision.patch_size:
        raise BadFolder(
            f"{where}: image_size is {height} in config.json, must be a multiple of patch_size {vision.patch_size}"
        )
    patches = (height // vision.patch_size) ** 2
    if patches != vision.num_position_embeddings:
        raise BadFolder(
            f"{where}: image_size {height} and patch_size {vision.patch_size} in config.json make {patches} patches "
            f"of a frame, but the model has positions for {vision.num_position_embeddings}"
        )


def check_loaded(
    where: str | PathLike, loaded: Mapping[str, Any], names: Iterable[str], trained: bool
) -> None:
    """Compare what a folder held with what its model needs.

    loaded: transformers' loading info; names: of all parameters; trained: the folder says that it has a scorer, else
    all of it may be fresh. Raises BadFolder for tensors of another shape, missing ones, and unknown ones that
    look like a scorer's or are layers of the LLM; other unknown ones are told.
    """
    if wrong := sorted(loaded["mismatched_keys"]):
        name, found, wanted = wrong[0]
        raise BadFolder(
            f"{_file_of(name, where)} does not fit its config.json: {name} has the shape {tuple(found)} there, must "
            f"have {tuple(wanted)} ({_count(wrong)} of another shape)"
        )
    scorer = {name for name in names if name.startswith(SCORER_PREFIX)}
    missing, unknown = set(loaded["missing_keys"]), sorted(loaded["unexpected_keys"])
    fresh = scorer if scorer <= missing and not trained else set()
    if lost := sorted(missing - fresh):
        raise BadFolder(_lacks(where, lost, unknown, scorer <= missing))
    if strange := [name for name in unknown if "scorer" in name]:
        raise BadFolder(
            f"{where} holds {strange[0]}, which is no tensor of its model ({_count(strange)} like it): a scorer's "
            f"begin with {SCORER_PREFIX}"
        )
    if surplus := [name for name in unknown if name.startswith(LAYERS_PREFIX)]:
        raise BadFolder(
            f"{where} holds {surplus[0]} ({_count(surplus)} like it), a layer that its config.json does not have"
        )
    if unknown:
        logger.warning(
            "%s holds %s that its model does not have, left out: %s",
            where,
            _count(unknown),
            _some(unknown),
        )


def _lacks(where: str | PathLike, lost: list[str], unknown: list[str], no_scorer: bool) -> str:
    text = f"{where} lacks {len(lost)} of the model's tensors, {lost[0]} for one"
    if no_scorer and lost[0].startswith(SCORER_PREFIX):
        text += (
            ": its config.json says that it was trained with a scorer (stts, policy scorer), and it has none"
        )
    return f"{text}; it holds {_some(unknown)}, which its model does not have" if unknown else text


def check_finite(where: str | PathLike, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Raises BadFolder naming the first tensor with a value that is not a number."""
    for name, tensor in tensors:
        # one pass without a copy: NaN and infinity stay in a sum
        if (
            tensor.is_floating_point()
            and not tensor.is_meta
            and not tensor.sum(dtype=_wide(tensor)).isfinite()
        ):
            raise BadFolder(
                f"{where}: {name} holds values that are not finite numbers; copy or train it again"
            )


def _wide(tensor: Tensor) -> Any:
    import torch

    return torch.promote_types(tensor.dtype, torch.float32)


def _file_of(name: str, where: str | PathLike) -> Path:
    """The file that holds a tensor, as far as its folder says."""
    index = Path(where) / "model.safetensors.index.json"
    if index.is_file():
        return Path(where) / read_json(index)["weight_map"].get(name, "")
    file = Path(where) / "model.safetensors"
    return file if file.is_file() else Path(where)


def one_line(error: Exception) -> str:
    """The kind of an error and what it says, in a line that is not too long."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def _count(names: list) -> str:
    return "1 tensor" if len(names) == 1 else f"{len(names)} tensors"


def _some(names: list[str]) -> str:
    return ", ".join(names[:TOLD]) + (", ..." if len(names) > TOLD else "")
