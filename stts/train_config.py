"""Settings of a training run, apart from train.py: mistakes in them are found before torch is loaded."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from .cli import from_dict
from .config import STTSConfig
from .data.spec import DataSpec
from .eval.config import EvalConfig
from .eval.tasks import BenchmarkSpec
from .models import ModelSpec

GROUPS = ("vision", "adapter", "llm", "scorer")


@dataclass(frozen=True)
class LearningRates:
    """Peak learning rate of each part of the model; a part at 0 is frozen."""

    vision: float = 2e-4
    """The ViT, its scorer aside."""
    adapter: float = 2e-4
    llm: float = 1e-3
    scorer: float = 5e-3

    def __post_init__(self) -> None:
        for group in GROUPS:
            check(getattr(self, group) >= 0, f"lr.{group}", getattr(self, group), "must be 0 or more")
        if not any(getattr(self, group) for group in GROUPS):
            raise ValueError("train.lr is 0 for every part of the model, so nothing would be trained")


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Raises ValueError, naming the setting, when a value is out of range."""

    max_steps: int = 200
    """Optimizer steps of the whole run."""
    batch_size: int = 8
    """Examples of one forward pass on one device."""
    max_tokens: int | None = None
    """Pack examples into rows of at most so many tokens, counted after pruning. None: one a row, padded."""
    grad_accumulation: int = 1
    """Forward passes of one optimizer step."""
    lr: LearningRates = field(default_factory=LearningRates)
    weight_decay: float = 0.02
    """Of matrices; biases, norms and the position table are not decayed."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's averaging factors."""
    warmup_steps: int = 20
    """Steps over which learning rates rise from 0."""
    ramp_steps: int = 0
    """Steps over which the prune ratio rises from 0: at a high ratio from the start, evidence goes before the LLM
    can ask for it. max_tokens still counts by the final ratio, so early rows are longer."""
    schedule: str = "cosine"
    """After warm-up: "cosine" (down to min_lr_ratio at max_steps) or "constant"."""
    min_lr_ratio: float = 0.1
    """Where the cosine ends, as a share of the peak."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 leaves them."""
    mixed_precision: str = "auto"
    """"bf16", "no", or "auto": bf16 on CUDA, none elsewhere."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more compute."""
    save_every: int = 100
    """Steps between checkpoints; the last step always gets one. 0: only the last."""
    eval_every: int = 0
    """Steps between evaluations; 0: none."""
    keep: int = 2
    """Checkpoints that stay on disk, newest first."""
    num_workers: int = 2
    """Processes that decode videos; 0: in the training process."""
    log_every: int = 1
    """Steps between reads of the metrics from the device; metrics.jsonl has every step all the same."""
    seed: int = 0
    """Of the order of the data and of every random choice in training."""

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch_size", "grad_accumulation", "keep", "log_every"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        for name in (
            "weight_decay",
            "warmup_steps",
            "ramp_steps",
            "max_grad_norm",
            "save_every",
            "eval_every",
            "num_workers",
            "seed",
        ):
            check(getattr(self, name) >= 0, name, getattr(self, name), "must be 0 or more")
        check(
            self.max_tokens is None or self.max_tokens >= 1,
            "max_tokens",
            self.max_tokens,
            "must be at least 1 or null",
        )
        check(
            self.schedule in ("cosine", "constant"), "schedule", self.schedule, "must be cosine or constant"
        )
        check(0 <= self.min_lr_ratio <= 1, "min_lr_ratio", self.min_lr_ratio, "must be in [0, 1]")
        check(
            self.mixed_precision in ("auto", "bf16", "no"), "mixed_precision", self.mixed_precision,
            "must be auto, bf16 or no (in quotes: \"no\")",
        )  # fmt: skip
        check(
            len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas),
            "betas",
            self.betas,
            "must be two in [0, 1)",
        )


@dataclass(frozen=True)
class VideoConfig:
    """How frames are taken from a video file: the top-level key `frames` and the keys under `video`."""

    frames: int
    """At most this many frames of each clip."""
    max_fps: float = 2.0
    """Frames a second are never denser than this."""
    backend: str = "auto"
    """Decoder: "auto", "pyav" or "decord"."""
    sampling: str = "time"
    """"time": evenly, the last instant included; "transformers": transformers' own rule."""

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"frames is {self.frames}, must be at least 1")
        if not self.max_fps > 0:
            raise ValueError(f"video.max_fps is {self.max_fps}, must be above 0")
        if self.backend not in ("auto", "pyav", "decord"):
            raise ValueError(f"video.backend is {self.backend!r}, must be auto, pyav or decord")
        if self.sampling not in ("time", "transformers"):
            raise ValueError(f"video.sampling is {self.sampling!r}, must be time or transformers")


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases. Disabled, the package is not even imported."""

    mode: str = "disabled"
    """"disabled", "offline" (files in output_dir/wandb) or "online"."""
    project: str = "stts"
    entity: str | None = None
    name: str | None = None
    """Of the run. None: the name of the output folder."""

    def __post_init__(self) -> None:
        if self.mode not in ("disabled", "offline", "online"):
            raise ValueError(f"wandb.mode is {self.mode!r}, must be disabled, offline or online")
        if self.mode == "online" and not has_wandb_key():
            raise ValueError(
                "wandb.mode is online but no API key was found: set WANDB_API_KEY or run `wandb login`, "
                "or use wandb.mode=offline"
            )


@dataclass(frozen=True)
class RunConfig:
    """Everything a training run is made of: configs/train.yaml, checked."""

    model: ModelSpec
    checkpoint: str | None
    stts: STTSConfig
    data: DataSpec
    video: VideoConfig
    train: TrainConfig
    benchmark: BenchmarkSpec
    evaluation: EvalConfig
    """How the benchmark is asked every train.eval_every steps."""
    wandb: WandbConfig
    output_dir: Path

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> RunConfig:
        """From the composed config. Raises ValueError naming a key that is unknown or out of range."""
        model = from_dict(ModelSpec, config["model"], "model")
        if model.dtype == "auto":  # an optimizer's small steps vanish in bfloat16 weights
            model = dataclasses.replace(model, dtype="float32")
        pruning = {key: config[key] for key in ("prune_ratio", "policy")}
        video = from_dict(VideoConfig, {"frames": config["frames"], **config["video"]})
        benchmark = from_dict(BenchmarkSpec, config["benchmark"], "benchmark")
        asking = {"benchmark": benchmark.name, "progress": False, **dataclasses.asdict(video)}
        return cls(
            model=model,
            checkpoint=config["checkpoint"],
            stts=from_dict(STTSConfig, pruning | config["stts"]),
            data=DataSpec.from_dict(config["data"]),
            video=video,
            train=from_dict(TrainConfig, config["train"], "train"),
            benchmark=benchmark,
            evaluation=from_dict(EvalConfig, asking | config["eval"], "eval"),
            wandb=from_dict(WandbConfig, config["wandb"], "wandb"),
            output_dir=Path(config["output_dir"]),
        )


def has_wandb_key() -> bool:
    """Whether wandb will find credentials by itself: in the environment, or where its login puts them."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    names = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for path in (Path(name).expanduser() for name in names):
        try:
            if path.exists() and netrc(path).authenticators(host):
                return True
        except (NetrcParseError, OSError) as error:
            raise ValueError(
                f"cannot read {path} for the wandb API key: {error}; set WANDB_API_KEY"
            ) from error
    return False


def check(ok: bool, name: str, value: object, rule: str) -> None:
    """Raises ValueError for the setting train.<name>."""
    if not ok:
        raise ValueError(f"train.{name} is {value!r}, {rule}")
