"""How the weights of the tiny model are made: from random numbers to answers about clips.

1. *align*: vision and adapter learn to put each visual token where the words for what it shows are, from
   single frames.
2. *questions*: the LLM learns to answer with words, many questions per clip, while the frames' features stay
   as they are. At the same time visual tokens learn the time of their frame, and words that name an event
   what else is true of it: answers alone do not get a small model off the ground.
3. *letters*: the same with lettered options.
4. *everything*: all parts together, answers only.

Frames travel the way they do everywhere else (file, decoder, processor), but are decoded once. A stage that
is finished is found again; the same seed gives the same weights on the same CPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText

from ..data.synthetic.clips import make_synthetic
from ..files.make_once import make_once
from ..hosts.folders import ModelSpec
from ..hosts.load import default_device, load_processor
from ..hosts.tiny import make_tiny
from ..hosts.tiny_qwen3_vl import make_tiny_qwen3_vl
from ..pruning.config import STTSConfig
from ..train.config import TrainConfig
from .scenes import load_scenes
from .stage_run import StageRun

VERSION = 1
"""Raise it when the same settings would give other weights."""
USED = (
    "max_steps",
    "batch_size",
    "lr",
    "weight_decay",
    "betas",
    "warmup_steps",
    "schedule",
    "min_lr_ratio",
    "max_grad_norm",
)
"""Settings of TrainConfig that a stage obeys, beside mixed_precision and log_every."""
STAGES = ("align", "questions", "letters", "everything")
HOSTS = {"molmo2": make_tiny, "qwen3_vl": make_tiny_qwen3_vl}
"""Of which family the tiny model can be, and what writes its first weights."""


@dataclass(frozen=True)
class Stage:
    """One stage: how long, how fast, and what is asked for beside the answers."""

    train: TrainConfig
    """Steps, clips (or in align frames) a step, learning rates. Parts at rate 0 stay as they are."""
    distance: float = 0.0
    """align: weight of the squared distance between a visual token and the sum of its words."""
    direct_share: float = 0.0
    """Share of the questions asked without options and answered by the word."""
    times: float = 0.0
    """Weight of the time losses at the visual tokens."""
    names: float = 0.0
    """Weight of the losses at words that name an event."""

    def recorded(self) -> dict[str, Any]:
        """What the weights depend on, as plain values."""
        values = dataclasses.asdict(self)
        train = {name: values["train"][name] for name in USED}
        if self.train.mixed_precision != "auto":
            train["mixed_precision"] = self.train.mixed_precision
        return values | {"train": train}


@dataclass(frozen=True)
class Curriculum:
    """All settings of a run. Raises ValueError, for a device that there is not."""

    align: Stage
    questions: Stage
    letters: Stage
    everything: Stage
    host: str = "molmo2"
    """Family of the model: one of HOSTS."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the generated training clips (SyntheticSpec)."""
    seed: int = 0
    """Of the first weights and of the order of everything."""
    device: str | None = None
    """"cpu", "cuda"; None: CUDA if there is one."""

    def __post_init__(self) -> None:
        if self.host not in HOSTS:
            raise ValueError(f"host is {self.host!r}, must be {' or '.join(HOSTS)}")
        if self.device not in (None, "cpu", "cuda"):
            raise ValueError(f"device is {self.device!r}, must be cpu, cuda or null")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is 'cuda', but torch finds none; null takes the CPU then")


def run_curriculum(config: Curriculum, folder: str | Path, say: Callable[[str], None] = print) -> Path:
    """Train through all stages; returns the folder of the last model, folder/everything.

    Stages that folder holds already, made with the same settings, are not run again.
    """
    folder = Path(folder)
    device = config.device or default_device()
    settings = {"curriculum": VERSION, "seed": config.seed, "data": dict(config.data)}
    if config.host != "molmo2":
        settings["host"] = config.host
    data = make_synthetic(folder / "data", **config.data)
    last, scenes = HOSTS[config.host](folder / "random", config.seed), None
    for number, name in enumerate(STAGES):
        stage = getattr(config, name)
        settings = settings | {name: stage.recorded()}

        def build(partial: Path, start: Path = last, stage: Stage = stage, number: int = number) -> None:
            nonlocal scenes
            model = AutoModelForImageTextToText.from_pretrained(start, dtype=torch.float32).to(device)
            processor = load_processor(ModelSpec(path=str(start)), STTSConfig())
            scenes = scenes or load_scenes(data / "train.jsonl", processor)
            torch.manual_seed(config.seed)
            run = StageRun(model, processor, scenes, stage, np.random.default_rng((config.seed, number)), say)
            run.train(run.align_loss if number == 0 else run.answer_loss)
            model.save_pretrained(partial)
            processor.save_pretrained(partial)

        say(f"stage {name}")
        last = make_once(folder / name, settings, build)
    return last
