"""Everything a training run is made of besides the training itself: configs/train.yaml, checked."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from .cli import from_dict
from .data.spec import DataSpec
from .data.video.config import VideoConfig
from .eval.config import EvalConfig
from .eval.tasks import BenchmarkSpec
from .hosts.folders import ModelSpec
from .pruning.config import STTSConfig
from .train_config import ParallelConfig, TrainConfig


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases. Disabled, the package is not even imported."""

    mode: str = "disabled"
    """"disabled", "offline" (files in output_dir/wandb) or "online"."""
    project: str = "stts"
    entity: str | None = None
    name: str | None = None
    """Of the run. None: the name of the output folder."""
    images_every: int = 0
    """Steps between pictures of what was kept of a training video, in output_dir/overlays and, in a run of wandb,
    there; 0: none."""

    def __post_init__(self) -> None:
        if self.mode not in ("disabled", "offline", "online"):
            raise ValueError(f"wandb.mode is {self.mode!r}, must be disabled, offline or online")
        if self.images_every < 0:
            raise ValueError(f"wandb.images_every is {self.images_every}, must be 0 or more")
        if self.mode == "online" and not has_wandb_key():
            raise ValueError(
                "wandb.mode is online but no API key was found: set WANDB_API_KEY or run `wandb login`, "
                "or use wandb.mode=offline"
            )


@dataclass(frozen=True)
class CheckConfig:
    """How scripts/check_data.py looks data over: the keys under `check`."""

    limit: int | None = None
    """Look at so many examples, drawn at random. None: at all."""
    decode: bool = False
    """Decode the frames as well."""
    processes: int = 1
    """That will train together."""
    output: str | None = None
    """File that gets every problem."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"check.limit is {self.limit}, must be at least 1 or null")
        if self.processes < 1:
            raise ValueError(f"check.processes is {self.processes}, must be at least 1")


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
        model = from_dict(ModelSpec, config["model"], "model").to_train()
        pruning = {key: config[key] for key in ("prune_ratio", "policy")}
        video = from_dict(VideoConfig, {"frames": config["frames"], **config["video"]})
        benchmark = from_dict(BenchmarkSpec, config["benchmark"], "benchmark")
        train = from_dict(TrainConfig, config["train"], "train")
        parallel = from_dict(ParallelConfig, config["parallel"], "parallel")
        asking = {"benchmark": benchmark.name, "progress": False, **dataclasses.asdict(video)}
        return cls(
            model=model,
            checkpoint=config["checkpoint"],
            stts=from_dict(STTSConfig, pruning | config["stts"]),
            data=DataSpec.from_dict(config["data"]),
            video=video,
            train=dataclasses.replace(train, parallel=parallel),
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
