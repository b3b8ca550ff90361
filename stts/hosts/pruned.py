"""A transformers model that prunes: what it has beside transformers' own, how it loads, starts and is saved."""

from __future__ import annotations

import json
import threading
import weakref
from copy import deepcopy
from os import PathLike
from pathlib import Path
from types import MethodType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY

from ..pruning.attention import uninstall
from ..pruning.blocks import Blocks, to_dense
from ..pruning.config import STTSConfig
from ..pruning.handover import Route, carried
from ..pruning.scorer import STTSScorer
from ..pruning.vit import build_scorer
from .base import Host
from .folder_checks import check_finite, check_loaded, check_size

WHERE = ("revision", "cache_dir", "token", "local_files_only", "subfolder")
"""Options of from_pretrained that say where a file is found."""


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.kept = weakref.WeakKeyDictionary()


_thread = _OfThread()


class PrunedModel:
    """What stands before a transformers class, whole VLM or bare vision model."""

    host_type: ClassVar[type[Host]]
    base: ClassVar[type[PreTrainedModel]]
    """The transformers class itself."""

    def __init__(self, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        """config.stts holds the STTSConfig as a dict (defaults when absent)."""
        super().__init__(deepcopy(config), *args, **kwargs)  # pruning writes into it
        saved = getattr(config, "stts", None)
        self._adopt(STTSConfig.from_dict(saved) if isinstance(saved, dict) else STTSConfig())

    def _adopt(self, stts: STTSConfig) -> None:
        """Take on what pruning adds: Blocks in place of the ModuleList, a scorer, the settings.

        Raises ValueError for settings the host cannot take.
        """
        host = self.host
        settled, vision = host.settle(stts), host.vision
        scorer = build_scorer(*host.dims, len(host.blocks), settled)
        host.set_blocks(Blocks(host.blocks))
        if host.tail == "vision":
            vision.register_forward_hook(to_dense)
        host.attach()
        vision.scorer = started(scorer, stts.scorer_bias, like=vision)
        self.config.stts = stts.to_dict()

    def _release(self) -> STTSScorer:
        """Undo _adopt, but for the settings; the scorer."""
        host = self.host
        vars(self).pop("_settled", None)
        vision, scorer = host.vision, host.scorer
        del vision.scorer
        host.set_blocks(nn.ModuleList(host.blocks))
        for number, hook in list(vision._forward_hooks.items()):
            if hook is to_dense:
                del vision._forward_hooks[number]
        host.detach()
        for module in self.modules():
            if "config" in vars(module):
                uninstall(module.config)
        return scorer

    @classmethod
    def from_pretrained(
        cls, path: str | PathLike, *args: Any, stts: STTSConfig | None = None, **kwargs: Any
    ) -> PrunedModel:
        """Load plain weights (the scorer starts fresh) or a folder saved by this class (as saved).

        path: folder or hub id; stts: settings to use instead of the saved or default ones; the rest as in
        transformers. Raises ValueError, naming the tensor, for one that is missing, of another shape or not finite,
        for unknown ones of a scorer, and where a folder that was trained with a scorer has none.
        """
        where = {name: kwargs[name] for name in WHERE if name in kwargs}
        saved = cls.config_class.from_pretrained(path, **where)
        trained = (getattr(saved, "stts", None) or {}).get("policy") == "scorer"
        config = kwargs.pop("config", None) or saved
        if stts is not None:
            config = deepcopy(config)
            config.stts = stts.to_dict()
        cls.host_type.check_config(config, path)
        folder = Path(path, kwargs.get("subfolder", ""))
        if folder.is_dir():
            with torch.device("meta"):  # no memory, and no random numbers drawn
                check_size(folder, cls(deepcopy(config)).host)
        told, resized = kwargs.pop("output_loading_info", False), kwargs.pop("ignore_mismatched_sizes", False)
        options = {"config": config, "output_loading_info": True, "ignore_mismatched_sizes": True}
        model, loaded = super().from_pretrained(path, *args, **kwargs | options)
        checked = loaded | {"mismatched_keys": []} if resized else loaded
        check_loaded(path, checked, model.host, trained)
        check_finite(path, model.named_parameters())
        return (model, loaded) if told else model

    def save_pretrained(self, save_directory: str | PathLike, *args: Any, **kwargs: Any) -> None:
        """As transformers does; config.json names the plain class, unless an engine serves this one by its name
        (Host.served). The plain one loads the folder either way, without the scorer."""
        push = kwargs.pop("push_to_hub", False)
        super().save_pretrained(save_directory, *args, **kwargs)
        path = Path(save_directory) / "config.json"
        if kwargs.get("is_main_process", True) and path.exists():
            saved = json.loads(path.read_text())
            cls = type(self) if self.host_type.served else self.base
            path.write_text(json.dumps(saved | {"architectures": [cls.__name__]}, indent=2) + "\n")
        if push:
            self.push_to_hub(kwargs.get("repo_id") or Path(save_directory).name)

    def initialize_weights(self) -> None:
        """As transformers does, but for the scorer, whose start matters to how it learns."""
        if (scorer := getattr(self.host.vision, "scorer", None)) is not None:
            start_scorer(scorer, self.stts.scorer_bias)
        super().initialize_weights()

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """As in transformers. Raises ValueError on use_reentrant=True, which loses the gradient of the key bias."""
        options = {"use_reentrant": False} | (gradient_checkpointing_kwargs or {})
        if options["use_reentrant"]:
            raise ValueError("gradient checkpointing of a pruning model needs use_reentrant=False")
        if Route.of(self.host.blocks[0]).kind == "aside":
            options = {"context_fn": carried} | options
        super().gradient_checkpointing_enable(gradient_checkpointing_kwargs=options, **kwargs)

    @property
    def host(self) -> Host:
        """The description of this model."""
        return self.host_type(self)

    @property
    def stts(self) -> STTSConfig:
        """The active settings. Assign another at any time; the scorer itself keeps its size."""
        saved, known = self.config.stts, vars(self).get("_settled")
        if known is None or known[0] != saved:  # checked once: every step of a generation asks
            known = self._settled = dict(saved), self.host.settle(STTSConfig.from_dict(saved))
        return known[1]

    @stts.setter
    def stts(self, stts: STTSConfig) -> None:
        self.host.settle(stts)
        self.config.stts = stts.to_dict()

    @property
    def last_keep_windows(self) -> Tensor | list[Tensor] | None:
        """What this thread's last call of generate kept, as in an output's keep_windows."""
        return _thread.kept.get(self)

    @last_keep_windows.setter
    def last_keep_windows(self, kept: Tensor | list[Tensor] | None) -> None:
        _thread.kept[self] = kept


def become(model: nn.Module, cls: type) -> None:
    """Make a model an instance of another class, also for those who remember its class or its forward."""
    model.__class__ = cls
    _CAN_RECORD_REGISTRY[model] = getattr(model, "_can_record_outputs", {})
    if "_old_forward" in vars(model):  # accelerate's, of a model spread over devices
        model._old_forward = MethodType(cls.forward, model)


def started(scorer: STTSScorer, bias: float, like: nn.Module) -> STTSScorer:
    """The scorer with fresh weights, of the dtype and in the place and mode of a module."""
    some = next(p for p in like.parameters() if p.is_floating_point())  # others are quantized
    if some.device.type != "meta":
        with torch.no_grad():
            start_scorer(scorer, bias)
    return scorer.to(some.device, some.dtype).train(like.training)


def start_scorer(scorer: STTSScorer, bias: float) -> None:
    """Fresh weights, where none were loaded. The usual 0.02 would bunch all scores of a narrow ViT at 0.5."""
    for module in scorer.modules():
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=module.in_features**-0.5)
            init.constant_(module.bias, bias if module is scorer.fc3 else 0.0)
        module._is_hf_initialized = True
