"""Everything a training run is made of besides the training itself: configs/train.yaml, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.spec import DataSpec
from ..data.video.config import VideoConfig
from ..eval.config import EvalConfig
from ..eval.tasks import Benchmark, BenchmarkGroup, read_benchmark
from ..hosts.folders import ModelSpec
from ..pruning.config import STTSConfig
from ..rules import at_least, check_rules, or_null, rule
from ..settings.typed import from_dict
from .config import ParallelConfig, TrainConfig, WandbConfig


@dataclass(frozen=True)
class CheckConfig:
    """How scripts/check_data.py looks data over: the keys under `check`."""

    limit: int | None = field(default=None, metadata=or_null(at_least(1)))
    """Look at so many examples, drawn at random. None: at all."""
    decode: bool = False
    """Decode the frames as well."""
    processes: int = field(default=1, metadata=at_least(1))
    """That will train together."""
    output: str | None = None
    """File that gets every problem."""
    lengths: str | None = None
    """File that gets the lengths of every example, for scripts/plan.py."""

    def __post_init__(self) -> None:
        check_rules(self, "check")


@dataclass(frozen=True)
class PlanConfig:
    """What scripts/plan.py is asked beside the settings of the run."""

    gpus: int = field(default=1, metadata=at_least(1))
    """That train together."""
    examples: int = field(default=100_000, metadata=at_least(1))
    """Videos of an epoch, where no lengths are given."""
    videos: int | None = field(default=None, metadata=or_null(at_least(1)))
    """Of one forward pass on a GPU. None: those of train.batch_size rows of train.max_tokens; without that, one."""
    frame_size: tuple[int, int] = field(
        default=(360, 640), metadata=rule(lambda size: min(size) >= 1, "height and width, 1 or more")
    )
    """Height and width of the videos in pixels, for models that take frames in their own shape."""
    lengths: str | None = None
    """File that scripts/check_data.py wrote."""
    rates: str | None = None
    """File of measured rates. None: guesses."""

    def __post_init__(self) -> None:
        check_rules(self)


@dataclass(frozen=True)
class RunConfig:
    """Everything a training run is made of: configs/train.yaml, checked."""

    model: ModelSpec
    checkpoint: str | None
    stts: STTSConfig
    data: DataSpec
    video: VideoConfig
    train: TrainConfig
    benchmark: Benchmark | BenchmarkGroup
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
        benchmark = read_benchmark(config["benchmark"])
        train = from_dict(TrainConfig, config["train"], "train")
        parallel = from_dict(ParallelConfig, config["parallel"], "parallel")
        asking = {"benchmark": benchmark.name, "progress": False, "video": video}
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

    def check_ready(self) -> None:
        """Raises ValueError when this machine lacks what the settings ask of it; building them looks at nothing."""
        self.wandb.check_ready()
