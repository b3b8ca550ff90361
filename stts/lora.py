"""Low-rank adapters on the LLM, through peft: put in, kept on disk, merged into the weights they adapt.

An adapter folder holds adapter_config.json and adapter_model.safetensors as peft writes them, in trained.safetensors
the other weights that were trained (scorer, pooling, ...), config.json and the tokenizer. It loads like a model
folder, as long as the weights it was trained on are where adapter_config.json says (base_model_name_or_path).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .models import ADAPTER_FILES
from .train_config import LoraSettings

ADAPTER_FILE, TRAINED_FILE = ADAPTER_FILES
PEFT_PREFIX = "base_model.model."


def add_adapters(model: nn.Module, settings: LoraSettings, seed: int = 0) -> None:
    """Put adapters that change nothing yet beside the LLM's matrices, in place; the same seed gives the same ones.

    Raises ValueError when peft is not installed.
    """
    try:
        from peft import inject_adapter_in_model
    except ImportError as error:
        raise ValueError("train.lora needs peft: pip install 'stts[lora]'") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(_peft_config(settings), model)


def _peft_config(settings: LoraSettings, base: str | None = None) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=rf"model\.language_model\.layers\..*\.({'|'.join(settings.targets)})",
        base_model_name_or_path=base,
    )


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return ".lora_" in name


def merged(weights: dict[str, Tensor], settings: LoraSettings) -> dict[str, Tensor]:
    """Weights of a model with adapters -> those of the plain model that does the same, W + alpha / rank * B A."""
    plain = {name.replace(".base_layer.", "."): w for name, w in weights.items() if not is_adapter(name)}
    for name, down in weights.items():
        if ".lora_A." in name:
            up = weights[name.replace(".lora_A.", ".lora_B.")]
            target = name.split(".lora_A.")[0] + ".weight"
            delta = settings.alpha / settings.rank * (up.float() @ down.float())
            plain[target] = (plain[target].float() + delta).to(plain[target].dtype)
    return plain


def save_adapters(
    folder: Path, model: nn.Module, processor: Any, settings: LoraSettings, weights: dict[str, Tensor]
) -> None:
    """Fill a folder. model: with adapters; weights: its state, whole and by name."""
    folder.mkdir(parents=True, exist_ok=True)
    config = _peft_config(settings, model.name_or_path)
    config.inference_mode = True
    config.save_pretrained(folder)
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)
    adapters = {
        PEFT_PREFIX + name.replace(".default.", "."): tensor
        for name, tensor in weights.items()
        if is_adapter(name)
    }
    trained = {name for name, p in model.named_parameters() if p.requires_grad and not is_adapter(name)}
    others = {name: tensor for name, tensor in weights.items() if name in trained}
    for file, tensors in ((ADAPTER_FILE, adapters), (TRAINED_FILE, others)):
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})


def load_adapters(folder: Path, model: nn.Module) -> None:
    """Put a folder's weights back into a model with the same adapters. Raises ValueError when they do not fit."""
    state = load_file(folder / TRAINED_FILE)
    for name, tensor in load_file(folder / ADAPTER_FILE).items():
        module, part = name.removeprefix(PEFT_PREFIX).rsplit(".", 1)
        state[f"{module}.default.{part}"] = tensor
    wanted = {name for name, p in model.named_parameters() if p.requires_grad}
    if wanted != set(state):
        raise ValueError(f"{folder} does not hold what is trained: {sorted(wanted ^ set(state))[0]} for one")
    model.load_state_dict(state, strict=False)


def adapt(model: nn.Module, folder: Path) -> nn.Module:
    """The model with a folder's adapters merged into it and the other trained weights in place.

    Raises ValueError when peft is not installed or the folder was trained on another model.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ValueError(
            f"{folder} holds LoRA adapters, which need peft: pip install 'stts[lora]'"
        ) from error
    model = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    extra = model.load_state_dict(load_file(folder / TRAINED_FILE), strict=False).unexpected_keys
    if extra:
        raise ValueError(f"{folder} holds {extra[0]}, which its base model does not have")
    return model
