"""Short training runs, and what they leave behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from stts.train.loop import TrainConfig

# what a process saw before it was stopped is not saved
TIMED = ("seconds", "tokens_per_s", "data_wait", "churn")


def config(**changes: Any) -> TrainConfig:
    defaults = {"max_steps": 6, "batch_size": 2, "warmup_steps": 2, "num_workers": 0, "save_every": 3}
    return TrainConfig(**defaults | changes)


def rows(output_dir: Path, timed: bool = False) -> list[dict]:
    lines = map(json.loads, (output_dir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if timed or k not in TIMED} for line in lines]


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


class Calls(torch.utils.data.Dataset):
    """A data set that does something when its n-th example is asked for."""

    def __init__(self, dataset, call: int, action) -> None:
        self.dataset, self.call, self.action = dataset, call, action

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int):
        self.call -= 1
        if self.call == 0:
            self.action()
        return self.dataset[index]
