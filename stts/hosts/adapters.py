"""Folders of LoRA adapters: read, and merged into the weights they adapt."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..files.model_folder import one_line
from .folder_checks import check_finite
from .folders import ADAPTER_FILE, TRAINED_FILE

PEFT_PREFIX = "base_model.model."


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return ".lora_" in name


def _read(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, by their names without peft's prefix. Raises ValueError for a damaged file."""
    state = {}
    for path in (folder / TRAINED_FILE, folder / ADAPTER_FILE):
        try:
            found = load_file(path) if path.exists() or path.name == ADAPTER_FILE else {}
        except (SafetensorError, OSError) as error:
            raise ValueError(f"cannot read {path}: {error}") from error
        state |= {name.removeprefix(PEFT_PREFIX): tensor for name, tensor in found.items()}
    return state


def adapt(model: nn.Module, folder: Path) -> tuple[nn.Module, set[str]]:
    """The model with a folder's adapters merged into it and the other trained weights in place, and those's names.

    Raises ValueError when peft is not installed, or the folder does not hold what it says, for a model like this.
    """
    try:
        from peft import PeftModel, get_peft_model_state_dict
    except ImportError as error:
        raise ValueError(
            f"{folder} holds LoRA adapters, which need peft: pip install 'stts[lora]'"
        ) from error
    state = _read(folder)
    others = {name: tensor for name, tensor in state.items() if not is_adapter(name)}
    check_finite(folder, state.items())
    if extra := sorted(set(others) - set(model.state_dict())):
        raise ValueError(f"{folder} holds {extra[0]}, which its base model does not have")
    try:
        applied = PeftModel.from_pretrained(model, str(folder))
        wanted = {name.removeprefix(PEFT_PREFIX) for name in get_peft_model_state_dict(applied)}
        if odd := sorted({name for name in wanted ^ set(state) if is_adapter(name) or name in wanted}):
            raise ValueError(f"{folder} does not hold what its adapter_config.json says: {odd[0]} for one")
        model = applied.merge_and_unload()
        model.load_state_dict(others, strict=False)
    except (RuntimeError, TypeError, KeyError) as error:  # shapes; a config that peft cannot read
        raise ValueError(f"cannot load the adapters in {folder}: {one_line(error)}") from error
    return model, set(others)
