"""Training runs of two processes, one after the other in a single launch, since it is the launch that costs time.

    torchrun --standalone --nproc-per-node 2 tests/helpers/two_processes.py MODEL ANNOTATIONS ROOT OUTPUT_DIR

test_parallel.py launches it, and uses the same settings for one process.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from stts import STTSConfig
from stts.data import Collator, VideoQADataset
from stts.hosts.folders import ModelSpec
from stts.hosts.load import load_model
from stts.train.config import LoraSettings, ParallelConfig
from stts.train.loop import TrainConfig, train
from stts.train.tracking import Tracker

FSDP = ParallelConfig("fsdp")
TAUGHT = {"relevance_weight": 1.0, "novelty_power": 2.0}
CASES: dict[str, dict[str, Any]] = {
    "ddp": {"stts": TAUGHT},
    "fsdp": {"stts": TAUGHT, "parallel": FSDP, "save_every": 2, "eval_every": 5},
    "lora": {
        "parallel": ParallelConfig("fsdp", reshard=False),
        "lora": LoraSettings(rank=4, alpha=8),
        "vit": False,
        "gradient_checkpointing": True,
        "grad_accumulation": 2,
        "max_steps": 2,
    },
    "text": {"seed": 10, "epochs": 1.25, "save_every": 2},  # by this seed the third step is of text alone
    "bf16": {"parallel": FSDP, "mixed_precision": "bf16", "max_steps": 1},
    "qwen3_vl": {"model": "qwen3_vl"},
    "qwen3_vl_fsdp": {"model": "qwen3_vl", "parallel": FSDP},
    "unread": {"model": "llava_next_video", "max_steps": 3},  # whose last ViT block nobody reads
    "unread_fsdp": {"model": "llava_next_video", "max_steps": 3, "parallel": FSDP},
}
"""What each run has in its settings; under "stts" those of pruning; "model": the folder, beside the
annotations, of what is trained in place of the tiny Molmo2."""


def run(case: str, inputs: tuple[Path, Path, Path], output_dir: Path, **changes: Any) -> None:
    """One run. inputs: model folder, annotations, root; changes: settings of TrainConfig."""
    folder, annotations, root = inputs
    defaults = {"max_steps": 5, "warmup_steps": 2, "num_workers": 0, "save_every": 0, "batch_size": 1}
    settings = defaults | CASES[case] | changes
    stts = STTSConfig(**settings.pop("stts", {}))
    if name := settings.pop("model", None):
        folder = annotations.parent / name
    config = TrainConfig(**settings)
    torch.manual_seed(0)  # of the fresh scorer
    model, processor = load_model(ModelSpec(str(folder)), stts)
    dataset = VideoQADataset(annotations, root, processor, frames=4)

    def evaluate(model: torch.nn.Module, step: int) -> dict[str, float]:
        return {"logit": mean_logit(model, VideoQADataset(annotations, root, processor, frames=4))}

    train(model, processor, dataset, config, output_dir, evaluate)


def mean_logit(model: torch.nn.Module, dataset: VideoQADataset) -> float:
    """One number for what a model says of a video."""
    batch = Collator(0)([dataset[0]])
    with torch.no_grad():
        return model(**{key: value for key, value in batch.items() if key != "ids"}).logits.mean().item()


def draw_nothing(*args: Any, **kwargs: Any) -> None:
    """Curves would cost as much as the training."""


def main(*paths: str) -> None:
    Tracker.draw_curves = draw_nothing
    *inputs, output_dir = map(Path, paths)
    for case in CASES:
        run(case, tuple(inputs), output_dir / case)


if __name__ == "__main__":
    main(*sys.argv[1:])
