"""In which form a run keeps model and optimizer: whole, in shards, or as adapters. Its result is always whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files.durable import PARTIAL, whole_folder
from .checkpoint import save_model, save_tensors
from .config import TrainConfig
from .lora import load_adapters, merged, save_adapters
from .parallel import SHARDS, gather, in_one_piece, is_sharded, read_shards, write_shards

Handle = Callable[[Path], None]
"""Writes to, or reads from, the folder of a checkpoint."""


class Saver:
    """Writes and reads what a run trains, in the form that parallel.name and train.lora ask for."""

    def __init__(
        self, model: nn.Module, processor: Any, optimizer: torch.optim.Optimizer, config: TrainConfig
    ) -> None:
        self.model, self.processor, self.optimizer = model, processor, optimizer
        self.lora, self.fsdp = config.lora, config.parallel.name == "fsdp"

    def writer(self, output_dir: Path) -> Handle | None:
        """What fills a checkpoint's folder with weights and optimizer state.

        None: save_checkpoint writes the model whole. All processes must call it together: shards are written at once,
        beside the checkpoint, and what is returned only moves them into it.
        """
        if self.fsdp:
            aside = output_dir / "checkpoints" / f".{SHARDS}.{PARTIAL}"
            write_shards(aside, self.model, self.optimizer)
            return lambda folder: _move(aside, folder / SHARDS)
        return self._write_adapters if self.lora else None

    def reader(self) -> Handle | None:
        """What reads a checkpoint's folder that `writer` filled; None: load_checkpoint reads the model whole."""
        if self.fsdp:
            return lambda folder: read_shards(folder / SHARDS, self.model, self.optimizer)
        return self._read_adapters if self.lora else None

    def _write_adapters(self, folder: Path) -> None:
        weights = self.model.state_dict()
        save_adapters(folder / "adapter", self.model, self.processor, self.lora, weights)
        save_tensors(self.optimizer.state_dict(), folder / "optimizer.pt")

    def _read_adapters(self, folder: Path) -> None:
        load_adapters(folder / "adapter", self.model)
        state = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
        self.optimizer.load_state_dict(state)

    def save_result(self, output_dir: Path, card: str, is_main: bool) -> None:
        """Write the trained model to output_dir/model, adapters merged, and those to output_dir/adapter, too."""
        weights = self._weights()
        if not is_main:
            return
        save_model(output_dir / "model", self._whole(weights), self.processor, card)
        if self.lora:
            with whole_folder(output_dir / "adapter") as partial:
                save_adapters(partial, self.model, self.processor, self.lora, weights)

    def whole_model(self, is_main: bool) -> nn.Module | None:
        """The model as one process can run it, on the first process; None on others. All must call it together."""
        weights = self._weights() if is_sharded(self.model) else {}
        if not is_main:
            return None
        return self._whole(weights) if is_sharded(self.model) else self.model

    def _weights(self) -> dict[str, Tensor]:
        return gather(self.model) if is_sharded(self.model) else self.model.state_dict()

    def _whole(self, weights: dict[str, Tensor]) -> nn.Module:
        if not self.lora and not is_sharded(self.model):
            return self.model
        return in_one_piece(self.model, merged(weights, self.lora) if self.lora else weights)


def _move(source: Path, target: Path) -> None:
    source.rename(target)
