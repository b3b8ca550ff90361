"""Low-rank adapters on the LLM, through peft: put in, kept on disk, merged into the weights they adapt.

An adapter folder is one of peft's: adapter_config.json and adapter_model.safetensors. Modules that were trained
beside the LLM (scorer, pooling, ViT) are in it whole, as modules_to_save, so that peft brings all of them, too; with
them are config.json, the tokenizer and a README. It loads like a model folder, as long as adapter_config.json
(base_model_name_or_path) says where the weights are that it was trained on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..hosts.adapters import PEFT_PREFIX, _read, is_adapter
from ..hosts.base import Host
from ..hosts.folders import ADAPTER_FILE, TRAINED_WITH
from ..pruning.config import STTSConfig
from .config import LoraSettings
from .optim import group_of

README = """\
# LoRA adapters for {base}

Rank {rank} on {targets} of the LLM{beside}.

    stts.load(THIS_FOLDER)
    peft.PeftModel.from_pretrained(stts.load("{base}"{settings})[0], THIS_FOLDER)

bring all that was trained. On transformers' plain {plain} peft brings everything but the scorer,
which that does not have: it then drops no video tokens.
"""


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
        inject_adapter_in_model(_peft_config(settings, model), model)


def _peft_config(settings: LoraSettings, model: nn.Module, **more: Any) -> Any:
    from peft import LoraConfig

    layers = re.escape(model.host.layers_at)
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=rf"{layers}\..*\.({'|'.join(settings.targets)})",
        **more,
    )


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
    host = model.host
    saved = _trained_modules(host, [name for name, p in model.named_parameters() if p.requires_grad])
    modules = [prefix.split(".")[-2] for prefix in saved]
    config = _peft_config(
        settings, model, base_model_name_or_path=model.name_or_path, modules_to_save=modules
    )
    config.inference_mode = True
    config.save_pretrained(folder)
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)
    beside = f"; with it, whole: {', '.join(modules)}"
    default = model.host.settle(STTSConfig())
    trained = {name: getattr(model.stts, name) for name in TRAINED_WITH}  # which peft does not bring
    other = [f", {name}={value!r}" for name, value in trained.items() if value != getattr(default, name)]
    about = {"base": model.name_or_path, "rank": settings.rank, "targets": ", ".join(settings.targets)}
    about["plain"] = model.base.__name__
    (folder / "README.md").write_text(
        README.format(**about, beside=beside, settings="".join(other)), encoding="utf-8"
    )
    tensors = {
        PEFT_PREFIX + name.replace(".default.", "."): tensor.detach().cpu().contiguous()
        for name, tensor in weights.items()
        if is_adapter(name) or name.startswith(saved)
    }
    save_file(tensors, folder / ADAPTER_FILE, metadata={"format": "pt"})


def _trained_modules(host: Host, trained: Iterable[str]) -> tuple[str, ...]:
    """How the names of the modules beside the LLM begin that are stored whole, since something in them is trained.

    What lies within one of them is not stored twice. The scorer always is stored: the base may have none, and a fresh
    one would be another.
    """
    found = {group_of(name, host.parts) for name in trained} | {"scorer"}
    stored = [prefix for part, prefixes in host.parts.items() if part in found for prefix in prefixes]
    return tuple(p for p in stored if not any(p != other and p.startswith(other) for other in stored))


def load_adapters(folder: Path, model: nn.Module) -> None:
    """Put a folder's weights back into a model with the same adapters. Raises ValueError when they do not fit."""
    state = {}
    for name, tensor in _read(folder).items():
        module, part = name.rsplit(".", 1)
        state[f"{module}.default.{part}" if is_adapter(name) else name] = tensor
    wanted = {name for name, p in model.named_parameters() if p.requires_grad}
    unknown = set(state) - set(model.state_dict())
    if odd := sorted((wanted - set(state)) | unknown):
        raise ValueError(f"{folder} does not hold what is trained: {odd[0]} for one")
    model.load_state_dict(state, strict=False)
