"""What a model's folder may be wrong with: each is refused, or told, by the name of the file, tensor or setting."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

SCORER_PREFIX = "model.vision_tower.scorer."
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
    look like a scorer's; other unknown ones are told.
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
        return Path(where) / json.loads(index.read_text(encoding="utf-8"))["weight_map"].get(name, "")
    file = Path(where) / "model.safetensors"
    return file if file.is_file() else Path(where)


def one_line(error: Exception) -> str:
    """The kind of an error and what it says, in a line that is not too long."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def _count(names: list) -> str:
    return "1 tensor" if len(names) == 1 else f"{len(names)} tensors"


def _some(names: list[str]) -> str:
    return ", ".join(names[:TOLD]) + (", ..." if len(names) > TOLD else "")
