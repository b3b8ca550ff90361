"""Settings of a training run, apart from train.py: mistakes in them are found before torch is loaded."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass, field
from netrc import NetrcParseError, netrc
from pathlib import Path
from urllib.parse import urlparse

from ..rules import above, at_least, between, check, check_rules, one_of, or_null, rule

GROUPS = ("vision", "adapter", "llm", "scorer")
LLM_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Matrices of an LLM layer that LoRA may adapt."""


@dataclass(frozen=True)
class LearningRates:
    """Peak learning rate of each part of the model; a part at 0 is frozen."""

    vision: float = field(default=2e-4, metadata=at_least(0))
    """The ViT, its scorer aside."""
    adapter: float = field(default=2e-4, metadata=at_least(0))
    llm: float = field(default=1e-3, metadata=at_least(0))
    scorer: float = field(default=5e-3, metadata=at_least(0))

    def __post_init__(self) -> None:
        check_rules(self, "train.lr")
        if not any(getattr(self, group) for group in GROUPS):
            raise ValueError("train.lr is 0 for every part of the model, so nothing would be trained")


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters on the LLM's matrices, which stay frozen themselves: W x + alpha / rank * B A x."""

    rank: int = field(default=16, metadata=at_least(1))
    alpha: float = field(default=32.0, metadata=above(0))
    dropout: float = field(default=0.0, metadata=between(0, 1, "[)"))
    """Of what goes into A."""
    targets: tuple[str, ...] = field(
        default=LLM_LINEARS,
        metadata=rule(lambda names: names and set(names) <= set(LLM_LINEARS), f"of {', '.join(LLM_LINEARS)}"),
    )
    """Which matrices of every layer."""

    def __post_init__(self) -> None:
        check_rules(self, "train.lora")


@dataclass(frozen=True)
class ParallelConfig:
    """How several devices share the work: the config group `parallel`."""

    name: str = field(default="ddp", metadata=one_of("ddp", "fsdp"))
    """"ddp": each holds the whole model; "fsdp": weights, gradients and optimizer state sharded (torch's FSDP2)."""
    reshard: bool = True
    """fsdp: free a layer's weights after its forward pass and gather them again in the backward pass. False: faster,
    but the gathered weights of the whole model must fit."""

    def __post_init__(self) -> None:
        check_rules(self, "parallel")


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Raises ValueError, naming the setting, when a value is out of range."""

    max_steps: int = field(default=200, metadata=at_least(1))
    """Optimizer steps of the whole run."""
    epochs: float | None = field(default=None, metadata=or_null(above(0)))
    """Passes over the training data, in place of max_steps; not with pack_buffer. A run that goes on with another
    number of processes trains what is left, and its schedule goes on in steps of the size it began with."""
    batch_size: int = field(default=8, metadata=at_least(1))
    """Examples of one forward pass on one device."""
    max_tokens: int | None = field(default=None, metadata=or_null(at_least(1)))
    """Pack examples into rows of at most so many tokens, counted after pruning. None: one a row, padded."""
    max_frames: int | None = field(default=None, metadata=or_null(at_least(1)))
    """And of at most so many frames."""
    pack_buffer: int = field(default=0, metadata=at_least(0))
    """Examples read ahead to find those that fill a row; batch_size then counts rows. 0: the batch_size examples of
    a forward pass are packed as they come."""
    too_long: str = field(default="error", metadata=one_of("error", "skip", "truncate_text"))
    """What to do with an example that is over the budget of a row by itself: "error" (stop), "skip", or
    "truncate_text" (cut the end of its text, never its video; skip it where that is not enough). Each is listed in
    output_dir/left_out.jsonl."""
    loss_weight: str = field(default="token", metadata=one_of("token", "example"))
    """What counts the same in the loss: every supervised "token" of a step, or every "example"."""
    grad_accumulation: int = field(default=1, metadata=at_least(1))
    """Forward passes of one optimizer step."""
    global_batch: int | None = field(default=None, metadata=or_null(at_least(1)))
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
    weight_decay: float = field(default=0.02, metadata=at_least(0))
    """Of matrices; biases, norms and the position table are not decayed."""
    betas: tuple[float, float] = field(
        default=(0.9, 0.98),
        metadata=rule(lambda betas: len(betas) == 2 and all(0 <= b < 1 for b in betas), "two in [0, 1)"),
    )
    """AdamW's averaging factors."""
    warmup_steps: int = field(default=20, metadata=at_least(0))
    """Steps over which learning rates rise from 0."""
    ramp_steps: int = field(default=0, metadata=at_least(0))
    """Steps over which the prune ratio rises from 0: at a high ratio from the start, evidence goes before the LLM
    can ask for it. max_tokens still counts by the final ratio, so early rows are longer."""
    schedule: str = field(default="cosine", metadata=one_of("cosine", "constant"))
    """After warm-up: "cosine" (down to min_lr_ratio at max_steps) or "constant"."""
    min_lr_ratio: float = field(default=0.1, metadata=between(0, 1))
    """Where the cosine ends, as a share of the peak."""
    max_grad_norm: float = field(default=1.0, metadata=at_least(0))
    """Gradients are scaled down to this norm; 0 leaves them."""
    mixed_precision: str = field(default="auto", metadata=one_of("auto", "bf16", "no"))
    """"bf16", "no", or "auto": bf16 on CUDA, none elsewhere."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more compute."""
    compile: bool = False
    """Compile the layers of ViT and LLM with torch.compile: minutes at the start, then faster steps."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """How several devices share the work."""
    save_every: int = field(default=100, metadata=at_least(0))
    """Steps between checkpoints; the last step always gets one. 0: only the last."""
    eval_every: int = field(default=0, metadata=at_least(0))
    """Steps between evaluations; 0: none."""
    keep: int = field(default=2, metadata=at_least(1))
    """Checkpoints that stay on disk, newest first."""
    num_workers: int = field(default=2, metadata=at_least(0))
    """Processes that decode videos; 0: in the training process."""
    log_every: int = field(default=1, metadata=at_least(1))
    """Steps between reads of the metrics from the device; metrics.jsonl has every step all the same."""
    seed: int = field(default=0, metadata=at_least(0))
    """Of the order of the data and of every random choice in training."""

    def __post_init__(self) -> None:
        check_rules(self, "train")
        self._check_batches()
        self._check_what_is_trained()

    def _check_batches(self) -> None:
        """Raises ValueError when settings of how examples make up a step do not go together."""
        check(
            self.global_batch is None or self.grad_accumulation == 1,
            "train.global_batch",
            self.global_batch,
            "must be null, or train.grad_accumulation left at 1",
        )
        packs = self.max_tokens is not None or self.max_frames is not None
        check(
            self.pack_buffer == 0 or (packs and self.pack_buffer >= self.batch_size),
            "train.pack_buffer",
            self.pack_buffer,
            f"must be 0, or at least batch_size ({self.batch_size}) with max_tokens or max_frames set",
        )
        check(
            self.epochs is None or not self.pack_buffer,
            "train.epochs",
            self.epochs,
            "must be null with train.pack_buffer, which fills rows whose number is not known beforehand: run "
            "scripts/check_data.py with these settings and train.epochs=null, and set train.max_steps to the epochs "
            "wanted times the steps of an epoch that it prints",
        )

    def _check_what_is_trained(self) -> None:
        """Raises ValueError when nothing would be trained, or adapters of an LLM that is frozen."""
        rates = self._rates()
        if not any(rates.values()):
            raise ValueError("train.vit, adapter, llm, scorer and lr leave nothing that would be trained")
        check(
            self.lora is None or rates["llm"] > 0,
            "train.lora",
            self.lora,
            "must be null when the LLM is frozen: the adapters are what is trained of it",
        )

    def for_devices(self, number: int) -> TrainConfig:
        """The same with grad_accumulation filled in from global_batch, if it has one, for a number of devices.

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
        """The same with max_steps filled in from epochs, if it has any.

        num_examples: of an epoch; step_size: examples of each step to come; step, examples: done so far, in steps
        that may have been of another size.
        """
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


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases. Disabled, the package is not even imported."""

    mode: str = field(default="disabled", metadata=one_of("disabled", "offline", "online"))
    """"disabled", "offline" (files in output_dir/wandb) or "online"."""
    project: str = "stts"
    entity: str | None = None
    name: str | None = None
    """Of the run. None: the name of the output folder."""
    images_every: int = field(default=0, metadata=at_least(0))
    """Steps between pictures of what was kept of a training video, in output_dir/overlays and, in a run of wandb,
    there; 0: none."""

    def __post_init__(self) -> None:
        check_rules(self, "wandb")

    def check_ready(self) -> None:
        """Raises ValueError when a run of wandb would go online and there is no key for it on this machine."""
        check(
            self.mode != "online" or has_wandb_key(),
            "wandb.mode",
            self.mode,
            "but no API key was found: set WANDB_API_KEY or run `wandb login`, or use wandb.mode=offline",
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
