"""Settings of a training run, apart from train.py: mistakes in them are found before torch is loaded."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass, field
from netrc import NetrcParseError, netrc
from pathlib import Path
from urllib.parse import urlparse

GROUPS = ("vision", "adapter", "llm", "scorer")
LLM_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Matrices of an LLM layer that LoRA may adapt."""


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
class LoraSettings:
    """Low-rank adapters on the LLM's matrices, which stay frozen themselves: W x + alpha / rank * B A x."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    """Of what goes into A."""
    targets: tuple[str, ...] = LLM_LINEARS
    """Which matrices of every layer."""

    def __post_init__(self) -> None:
        check(self.rank >= 1, "lora.rank", self.rank, "must be at least 1")
        check(self.alpha > 0, "lora.alpha", self.alpha, "must be above 0")
        check(0 <= self.dropout < 1, "lora.dropout", self.dropout, "must be in [0, 1)")
        unknown = sorted(set(self.targets) - set(LLM_LINEARS))
        check(
            self.targets and not unknown,
            "lora.targets",
            list(self.targets),
            f"must be of {', '.join(LLM_LINEARS)}",
        )


@dataclass(frozen=True)
class ParallelConfig:
    """How several devices share the work: the config group `parallel`."""

    name: str = "ddp"
    """"ddp": each holds the whole model; "fsdp": weights, gradients and optimizer state sharded (torch's FSDP2)."""
    reshard: bool = True
    """fsdp: free a layer's weights after its forward pass and gather them again in the backward pass. False: faster,
    but the gathered weights of the whole model must fit."""

    def __post_init__(self) -> None:
        if self.name not in ("ddp", "fsdp"):
            raise ValueError(f"parallel.name is {self.name!r}, must be ddp or fsdp")


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Raises ValueError, naming the setting, when a value is out of range."""

    max_steps: int = 200
    """Optimizer steps of the whole run."""
    epochs: float | None = None
    """Passes over the training data, in place of max_steps; not with pack_buffer. A run that goes on with another
    number of processes trains what is left, and its schedule goes on in steps of the size it began with."""
    batch_size: int = 8
    """Examples of one forward pass on one device."""
    max_tokens: int | None = None
    """Pack examples into rows of at most so many tokens, counted after pruning. None: one a row, padded."""
    max_frames: int | None = None
    """And of at most so many frames."""
    pack_buffer: int = 0
    """Examples read ahead to find those that fill a row; batch_size then counts rows. 0: the batch_size examples of
    a forward pass are packed as they come."""
    too_long: str = "error"
    """What to do with an example that is over the budget of a row by itself: "error" (stop), "skip", or
    "truncate_text" (cut the end of its text, never its video; skip it where that is not enough). Each is listed in
    output_dir/left_out.jsonl."""
    loss_weight: str = "token"
    """What counts the same in the loss: every supervised "token" of a step, or every "example"."""
    grad_accumulation: int = 1
    """Forward passes of one optimizer step."""
    global_batch: int | None = None
    """Examples (rows, with pack_buffer) of one optimizer step on all devices together, in place of grad_accumulation:
    the same run on any number of devices. None: batch_size x devices x grad_accumulation."""
    lr: LearningRates = field(default_factory=LearningRates)
    vit: bool = True
    """Train the ViT, its scorer aside. False freezes it, as do the three that follow (and a learning rate of 0)."""
    adapter: bool = True
    llm: bool = True
    scorer: bool = True
    lora: LoraSettings | None = None
    """Train low-rank adapters in the LLM in place of its own weights. None: the weights."""
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
    compile: bool = False
    """Compile the layers of ViT and LLM with torch.compile: minutes at the start, then faster steps."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """How several devices share the work."""
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
        for name in ("max_tokens", "max_frames"):
            value = getattr(self, name)
            check(value is None or value >= 1, name, value, "must be at least 1 or null")
        check(
            self.global_batch is None or (self.global_batch >= 1 and self.grad_accumulation == 1),
            "global_batch",
            self.global_batch,
            "must be at least 1, with grad_accumulation left at 1, or null",
        )
        packs = self.max_tokens is not None or self.max_frames is not None
        check(
            self.pack_buffer == 0 or (packs and self.pack_buffer >= self.batch_size),
            "pack_buffer",
            self.pack_buffer,
            f"must be 0, or at least batch_size ({self.batch_size}) with max_tokens or max_frames set",
        )
        check(
            self.too_long in ("error", "skip", "truncate_text"),
            "too_long",
            self.too_long,
            "must be error, skip or truncate_text",
        )
        check(
            self.loss_weight in ("token", "example"),
            "loss_weight",
            self.loss_weight,
            "must be token or example",
        )
        check(self.epochs is None or self.epochs > 0, "epochs", self.epochs, "must be above 0 or null")
        check(
            self.epochs is None or not self.pack_buffer, "epochs", self.epochs,
            "must be null with train.pack_buffer, which fills rows whose number is not known beforehand: run "
            "scripts/check_data.py with these settings and train.epochs=null, and set train.max_steps to the epochs "
            "wanted times the steps of an epoch that it prints",
        )  # fmt: skip
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
        rates = self._rates()
        if not any(rates.values()):
            raise ValueError("train.vit, adapter, llm, scorer and lr leave nothing that would be trained")
        check(
            self.lora is None or rates["llm"] > 0, "lora", self.lora,
            "must be null when the LLM is frozen: the adapters are what is trained of it",
        )  # fmt: skip

    def for_devices(self, number: int) -> TrainConfig:
        """The same with the grad_accumulation that its global_batch takes on so many devices, if it has one.

        Raises ValueError when they cannot share it evenly.
        """
        if self.global_batch is None:
            return self
        together = self.batch_size * number
        if self.global_batch % together:
            raise ValueError(
                f"train.global_batch is {self.global_batch}, must be a multiple of train.batch_size x devices = "
                f"{self.batch_size} x {number} = {together}"
            )
        passes = self.global_batch // together
        return dataclasses.replace(self, grad_accumulation=passes, global_batch=None)

    def step_size(self, num_processes: int) -> int:
        """Examples of one optimizer step (rows, with pack_buffer)."""
        return self.batch_size * self.grad_accumulation * num_processes

    def with_steps(
        self, num_examples: int, step_size: float, step: int = 0, examples: int = 0
    ) -> TrainConfig:
        """The same with the max_steps that its epochs take, if it has any: those done, and what is left in steps of
        so many examples. examples: trained on in the steps done, which may have been of another size."""
        if self.epochs is None:
            return self
        left = max(self.epochs * num_examples - examples, 0)
        return dataclasses.replace(self, max_steps=max(1, step + math.ceil(left / step_size - 1e-9)))

    def in_bf16(self, device: str) -> bool:
        """Whether forward passes on this kind of device, "cuda" or another, are in bf16."""
        return self.mixed_precision == "bf16" or (self.mixed_precision == "auto" and device == "cuda")

    @property
    def rates(self) -> LearningRates:
        """Peak learning rates, 0 for the parts that are frozen."""
        return LearningRates(**self._rates())

    def _rates(self) -> dict[str, float]:
        switches = zip(GROUPS, (self.vit, self.adapter, self.llm, self.scorer), strict=True)
        return {part: getattr(self.lr, part) if trained else 0.0 for part, trained in switches}


def check(ok: bool, name: str, value: object, rule: str) -> None:
    """Raises ValueError for the setting train.<name>."""
    if not ok:
        raise ValueError(f"train.{name} is {value!r}, {rule}")


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
