"""What a model's folder may be wrong with: each is refused, or told, by the name of the file, tensor or setting."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from ..files.model_folder import BadFolder, file_of, weight_files

if TYPE_CHECKING:
    from torch import Tensor

    from .base import Host

logger = logging.getLogger(__name__)

TOLD = 3
"""Names in a message about many tensors."""


def check_size(folder: Path, host: Host) -> None:
    """Raises BadFolder where a host's model, on the meta device, is much larger than a folder's weights: what is not
    in them would be made up first, and refused only then."""
    scorer = host.parts["scorer"]
    wanted = sum(p.numel() for name, p in host.model.named_parameters() if not name.startswith(scorer))
    stored, files = 0, weight_files(folder)
    if not any(
        (folder / name).exists() for name in files
    ):  # weights of another kind, or none: transformers knows
        return
    for name in files:
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


def check_loaded(where: str | PathLike, loaded: Mapping[str, Any], host: Host, trained: bool) -> None:
    """Compare what a folder held with what its model needs.

    loaded: transformers' loading info; host: of the model; trained: the folder says that it has a scorer, else
    all of it may be fresh. Raises BadFolder for tensors of another shape, missing ones, and unknown ones that
    look like a scorer's or are layers of the LLM; other unknown ones are told.
    """
    if wrong := sorted(loaded["mismatched_keys"]):
        name, found, wanted = wrong[0]
        raise BadFolder(
            f"{file_of(name, Path(where))} does not fit its config.json: {name} has the shape {tuple(found)} there, "
            f"must have {tuple(wanted)} ({_count(wrong)} of another shape)"
        )
    begins = host.parts["scorer"]
    scorer = {name for name, _ in host.model.named_parameters() if name.startswith(begins)}
    missing, unknown = set(loaded["missing_keys"]), sorted(loaded["unexpected_keys"])
    fresh = scorer if scorer <= missing and not trained else set()
    if lost := sorted(missing - fresh):
        raise BadFolder(_lacks(where, lost, unknown, scorer <= missing and lost[0] in scorer))
    if strange := [name for name in unknown if "scorer" in name]:
        raise BadFolder(
            f"{where} holds {strange[0]}, which is no tensor of its model ({_count(strange)} like it): a scorer's "
            f"begin with {begins[0]}"
        )
    if surplus := [name for name in unknown if name.startswith(f"{host.layers_at}.")]:
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
    if no_scorer:
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


def _count(names: list) -> str:
    return "1 tensor" if len(names) == 1 else f"{len(names)} tensors"


def _some(names: list[str]) -> str:
    return ", ".join(names[:TOLD]) + (", ..." if len(names) > TOLD else "")
