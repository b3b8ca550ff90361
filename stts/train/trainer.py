"""What the training loop does at each turn: a step, its numbers, an evaluation, a checkpoint.

accelerate owns devices and processes. The loss of a step is that of one big batch: the LM loss averages over all
supervised tokens, the auxiliary loss over all pairs of neighbouring frames, that of relevance over all windows kept
of later frames, however they were split into forward passes and processes."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..data.feed.account import data_sums, feed_row
from ..data.feed.budget import Budget
from ..data.feed.feed import HOST_KEYS
from ..data.feed.order import Place
from ..data.feed.tensors import each_tensor
from ..processes import join_processes
from ..viz.overlay import draw_batch
from .checkpoint import Progress, clean_up, load_checkpoint, resume, rng_state, save_checkpoint
from .config import TrainConfig
from .feeding import open_feed
from .metrics import Churn, add_up, count, measure, metrics_row, num_targets, read_sums, relevance_sums
from .model_card import run_card
from .optim import build_optimizer, set_lr
from .parallel import clip_gradients
from .prepare import prepare, refuse_damaged_weights
from .run_folder import checkpoint_path
from .saving import Saver

Batch = dict[str, Any]
Evaluate = Callable[[nn.Module, int], Mapping[str, Any]]
"""(model in eval mode, step) -> results, numbers by name."""


@dataclasses.dataclass(frozen=True)
class Step:
    """A step whose numbers have not been read yet."""

    row: dict[str, Any]
    """What the host knows of its row in metrics.jsonl."""
    ids: list[str]
    """Of its examples, on this process."""
    measured: dict[str, Tensor]
    """Sums on the device, () each: the losses, the norm, those of `measure` and `Churn.update`."""
    counted: dict[str, float]
    """Sums on the host: unpruned_tokens, taught and those of data_sums."""


class Trainer:
    """A model with its optimizer, between the first step and the last. Building it loads the newest checkpoint."""

    def __init__(self, model: nn.Module, processor: Any, config: TrainConfig, output_dir: Path) -> None:
        join_processes()
        self.accelerator = Accelerator(mixed_precision="no")  # autocast is entered where it is wanted
        if not model.stts.prune_ratio or model.stts.policy != "scorer":  # nothing would ask the scorer
            config = dataclasses.replace(config, scorer=False)
        self.config, self.processor, self.output_dir = config, processor, output_dir
        self.schedule = config  # whose max_steps is where the learning rate ends
        self.stts, self.churn = model.stts, Churn()
        self.device = self.accelerator.device
        self.is_main = self.accelerator.is_main_process
        self.is_distributed = self.accelerator.num_processes > 1
        self.bf16 = config.in_bf16(self.device.type)

        self.plain_model = model
        refuse_damaged_weights(model)
        self.model = prepare(model, config, self.accelerator, self.bf16)
        self.optimizer = build_optimizer(model, config)
        self.saver = Saver(model, processor, self.optimizer, config)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.pending: list[Step] = []
        self.bad: dict[str, Any] | None = None  # row of a step that failed
        self.bad_ids: list[str] = []
        self.seen: tuple[Batch, Tensor | None] | None = None  # last batch, and what was kept of it
        self.place, self.feed, self.num_bad = Place(), None, 0  # of the training data
        self.waited = 0.0  # seconds, for the batches of a step
        if self.is_main:
            clean_up(output_dir)
        self.progress = resume(output_dir, self._load, self.accelerator.print, self.is_main) or Progress()
        self.clock = time.perf_counter()

    def _load(self, checkpoint: Path) -> Progress:
        """Put the state of a checkpoint back. Raises DamagedError when it cannot be read."""
        rank = self.accelerator.process_index
        return load_checkpoint(checkpoint, self.plain_model, self.optimizer, rank, self.saver.reader())

    def plan(self, num_examples: int) -> TrainConfig:
        """The settings with max_steps filled in where they count epochs: steps done plus those that are left.

        num_examples: of the data, thus of an epoch.
        """
        config, done = self.config, self.progress
        if config.epochs is not None:
            size = config.step_size(self.accelerator.num_processes)
            begun = done.step_size or (done.examples / done.step if done.step else size)
            self.progress = dataclasses.replace(done, step_size=begun)
            self.schedule = config.with_steps(num_examples, begun)
            self.config = config.with_steps(num_examples, size, done.step, done.examples)
        return self.config

    @property
    def turn(self) -> float:
        """Steps done, counted in steps of the size with which the run began. The schedule goes by these."""
        done = self.progress
        return done.examples / done.step_size if done.step_size else done.step

    def batches(self, dataset: Dataset) -> Iterator[Batch]:
        """Batches on the host, without end, from where the run stands in the data."""
        accelerator = self.accelerator
        self.place, self.feed = open_feed(
            dataset,
            self.processor,
            self.stts,
            self.config,
            self.progress.places,
            (accelerator.process_index, accelerator.num_processes),
            self.output_dir,
        )
        return self.feed.batches(pin_memory=self.device.type == "cuda")

    def is_due(self, every: int) -> bool:
        """Whether to do now what is done every so many steps, and after the last one. every: 0 means never."""
        return every > 0 and (self.progress.step % every == 0 or self.progress.step == self.config.max_steps)

    def next_batches(self, batches: Iterator[Batch]) -> list[Batch]:
        """The batches of one optimizer step. The time spent waiting for them goes into its metrics."""
        start = time.perf_counter()
        taken = list(islice(batches, self.config.grad_accumulation))
        self.waited = time.perf_counter() - start
        return taken

    def step(self, batches: list[Batch]) -> None:
        """One optimizer step: a forward and backward pass of each batch. Never waits for the device."""
        rates = set_lr(self.optimizer, self.turn, self.schedule)
        self.plain_model.stts = self.stts.replace(prune_ratio=self._prune_ratio())
        counts = [count(batch, self.plain_model.stts) for batch in batches]
        names = ("targets", "pairs", "taught") if self.stts.relevance_weight else ("targets", "pairs")
        shares = {name: self._shares([c[name] for c in counts]) for name in names}
        sums = []
        for i, batch in enumerate(batches):
            accumulate = self.accelerator.no_sync(self.model) if i < len(batches) - 1 else nullcontext()
            with accumulate:
                sums.append(self._forward_backward(batch, {name: of[i] for name, of in shares.items()}))
        norm = clip_gradients(self.parameters, self.config.max_grad_norm or math.inf)
        self.optimizer.step()
        self.optimizer.zero_grad()

        ids = [name for batch in batches for name in batch["ids"]]
        examples = self.progress.examples + len(ids) * self.accelerator.num_processes
        self.progress = dataclasses.replace(
            self.progress, step=self.progress.step + 1, examples=examples, places=()
        )
        self.place = batches[-1].get("place", self.place)
        row = {
            "step": self.progress.step,
            "lr": rates.get("llm", max(rates.values())),
            "prune_ratio": self.plain_model.stts.prune_ratio,
            **{f"lr_{group}": rate for group, rate in rates.items()},
            "data_wait": self.waited,
        }
        # The norm is the same on all processes, and read_metrics adds them up.
        measured = add_up(sums) | {"grad_norm": norm.double() / self.accelerator.num_processes}
        totals = {"unpruned_tokens": "tokens", "taught": "taught"}
        counted = {name: sum(c[of] for c in counts) for name, of in totals.items()}
        self.pending.append(Step(row, ids, measured, counted | data_sums(batches, self.place)))

    def _forward_backward(self, batch: Batch, share: dict[str, Any]) -> dict[str, Tensor]:
        """Add the gradient of a batch's part of the step's loss. Returns its sums: the two losses, those of
        `measure`, `relevance_sums` and `Churn.update`, () float64 each on the device.

        share: this batch's of the step's supervised tokens, pairs of frames, and windows that relevance is learned
        from, by their names in `count`.
        """
        inputs = {k: v for k, v in batch.items() if k not in HOST_KEYS}
        inputs = each_tensor(inputs, lambda x: x.to(self.device, non_blocking=True))
        with self._autocast():
            out = self.model(**inputs, num_targets=num_targets(batch), use_cache=False)
        lm_loss, aux_loss = out.lm_loss * share["targets"], out.aux_loss * share["pairs"]
        stts = self.plain_model.stts
        loss = lm_loss + stts.aux_loss_weight * aux_loss
        if out.relevance is not None:
            loss = loss + stts.relevance_weight * share["taught"] * out.relevance.loss
        if not batch["layout"].frames_per_video and not self.plain_model.lockstep:
            # Every parameter gets a gradient, 0 where the batch has no use for it: other processes wait for it, and
            # with a gradient the optimizer's momentum and decay go on, on one process as on several.
            loss = loss + sum(p.sum() * 0 for p in self.parameters)
        (loss * self.accelerator.num_processes).backward()  # gradients are averaged over processes: undo that
        self.seen = batch, out.keep_windows
        losses = {"lm_loss": lm_loss.detach().double(), "aux_loss": aux_loss.detach().double()}
        losses |= relevance_sums(out, self.stts)
        return losses | measure(out, batch) | self.churn.update(out.keep_windows, batch, lm_loss.device)

    def _prune_ratio(self) -> float:
        """The prune ratio of the next step: it rises from 0 over ramp_steps to what the model is trained for."""
        share = (self.turn + 1) / max(self.config.ramp_steps, 1)
        return self.stts.prune_ratio * min(1.0, share)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def _shares(self, counts: list[int]) -> Tensor | list[float]:
        """Each count divided by the sum over all batches and processes; 0 where that is 0."""
        if not self.is_distributed:
            return [c / max(1, sum(counts)) for c in counts]
        mine = torch.tensor(counts, dtype=torch.float64, pin_memory=self.device.type == "cuda")
        mine = mine.to(self.device, torch.float32, non_blocking=True)
        return mine / self.accelerator.reduce(mine.sum(), reduction="sum").clamp(min=1)

    def read_metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl since the last call, up to a step that failed; refuse_bad_batch must follow.

        Only here does the loop wait for the device.
        """
        steps, self.pending = self.pending, []
        reduce = self.accelerator.reduce if self.is_distributed else None  # which adds up
        table = read_sums([step.measured for step in steps], [step.counted for step in steps], reduce)
        now = time.perf_counter()
        seconds, self.clock = (now - self.clock) / len(steps), now
        waiting = sum(step.row["data_wait"] for step in steps) / len(steps) / seconds  # as a share
        self.num_bad = int(table[-1]["bad"])
        finished = []
        for step, sums in zip(steps, table, strict=True):
            row = step.row | metrics_row(sums, self.stts, seconds)
            row["data_wait"] = waiting
            row |= feed_row(sums, Budget(self.config.max_tokens, self.config.max_frames))
            if not (math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])):
                self.bad, self.bad_ids = row, step.ids
                break
            finished.append(row)
        return finished

    def refuse_bad_batch(self) -> None:
        """Raises ValueError when read_metrics met a loss or gradient that is not finite, or too many bad examples.

        The examples of such a step are listed in output_dir/bad_batch.json.
        """
        if self.feed and self.num_bad > self.feed.max_bad:  # some may have been met by several processes
            self.feed.refuse(len(set(gather_object(list(self.place.bad)))))
        if self.bad is None:
            return
        row, ids = self.bad, gather_object(self.bad_ids)
        path = self.output_dir / "bad_batch.json"
        if self.is_main:
            path.write_text(json.dumps({"step": row["step"], "ids": ids}, indent=1))
        shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        raise ValueError(
            f"the loss is {row['loss']} and the gradient norm {row['grad_norm']} at step {row['step']}, on "
            f"the examples {shown} (all in {path}); check them, or lower train.lr"
        )

    def evaluate(self, evaluate: Evaluate) -> Mapping[str, Any]:
        """What `evaluate` returns, on the first process; {} on the others. Leaves no trace in the training."""
        results: Mapping[str, Any] = {}
        self.plain_model.stts = self.stts
        if model := self.saver.whole_model(self.is_main):
            model.to(self.device).eval()
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []), self._autocast():
                results = evaluate(model, self.progress.step)
            model.train()
        self._meet()
        return results

    def draw_overlay(self, path: Path) -> Path | None:
        """Draw what was kept of the first video of the last batch; None when nothing was pruned."""
        return draw_batch(*self.seen, self.stts.policy, path, self.processor.video_form)

    def save(self) -> None:
        """Write a checkpoint of this step."""
        if (checkpoint_path(self.output_dir, self.progress.step) / "progress.json").exists():
            return  # stopped again before the next step
        states, places = gather_object([rng_state()]), gather_object([dataclasses.asdict(self.place)])
        self.progress = dataclasses.replace(self.progress, places=places)
        self.plain_model.stts = self.stts  # a folder says what the model is for, not where the ramp was
        write = self.saver.writer(self.output_dir)
        if self.is_main:
            parts, card = (self.plain_model, self.processor, self.optimizer), self._card()
            save_checkpoint(self.output_dir, self.progress, *parts, states, self.config.keep, card, write)
        self._meet()

    def finish(self) -> None:
        """Save the last checkpoint if the schedule did not, and the trained model to output_dir/model."""
        self.save()
        self.saver.save_result(self.output_dir, self._card() if self.is_main else "", self.is_main)
        self._meet()

    def _card(self) -> str:
        return run_card(self.output_dir, self.plain_model, self.progress.step, self.config.max_steps)

    def _meet(self) -> None:
        self.accelerator.wait_for_everyone()
        self.clock = time.perf_counter()  # the time of evaluating and saving is not the next step's

    def any_process(self, signum: int) -> int:
        """The highest signal that any process received, 0 for none. All processes must call it together."""
        if not self.is_distributed:
            return signum
        return int(self.accelerator.gather(torch.tensor([signum], device=self.device)).max())
