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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Molmo2ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..data.feed.collator import Collator
from ..data.processors.molmo2 import VideoProcessor
from ..data.synthetic.clips import make_synthetic
from ..data.synthetic.questions import VALUES
from ..data.video.pixels import normalize
from ..files.make_once import make_once
from ..hosts.load import default_device
from ..hosts.tiny import make_tiny
from ..train.config import TrainConfig
from ..train.optim import build_optimizer, freeze, set_lr
from .scenes import Conversation, Scene, load_scenes
from .word_losses import KINDS, NOTHING_WEIGHT, WordIds, name_labels, time_labels, word_loss

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
TIME_LAYER, NAME_LAYER = 1, 2
"""LLM layers after which visual tokens should know their time, and names what they name."""


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
    data: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the generated training clips (SyntheticSpec)."""
    seed: int = 0
    """Of the first weights and of the order of everything."""
    device: str | None = None
    """"cpu", "cuda"; None: CUDA if there is one."""

    def __post_init__(self) -> None:
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
    data = make_synthetic(folder / "data", **config.data)
    last, scenes = make_tiny(folder / "random", config.seed), None
    for number, name in enumerate(("align", "questions", "letters", "everything")):
        stage = getattr(config, name)
        settings = settings | {name: stage.recorded()}

        def build(partial: Path, start: Path = last, stage: Stage = stage, number: int = number) -> None:
            nonlocal scenes
            model = Molmo2ForConditionalGeneration.from_pretrained(start, dtype=torch.float32).to(device)
            processor = VideoProcessor.from_pretrained(start)
            scenes = scenes or load_scenes(data / "train.jsonl", processor)
            torch.manual_seed(config.seed)
            run = StageRun(model, processor, scenes, stage, np.random.default_rng((config.seed, number)), say)
            run.train(run.align_loss if number == 0 else run.answer_loss)
            model.save_pretrained(partial)
            processor.save_pretrained(partial)

        say(f"stage {name}")
        last = make_once(folder / name, settings, build)
    return last


class StageRun:
    """A model in one stage, on the device where it is; clips and labels stay on the host until they are needed."""

    def __init__(
        self,
        model: Molmo2ForConditionalGeneration,
        processor: VideoProcessor,
        scenes: Sequence[Scene],
        stage: Stage,
        rng: np.random.Generator,
        say: Callable[[str], None],
    ) -> None:
        self.model, self.scenes, self.stage, self.rng, self.say = model.train(), scenes, stage, rng, say
        self.device = model.device
        self.bf16 = stage.train.in_bf16(self.device.type)
        self.ids = WordIds.of(processor.tokenizer)
        self.conversation = Conversation(processor)
        self.collate = Collator(processor.pad_token_id)
        freeze(model, stage.train.lr)
        self.optimizer = build_optimizer(model, stage.train)
        rates = stage.train.lr
        self.sees_anew = bool(rates.vision or rates.adapter)  # else each scene's features are computed once
        self.seen: dict[int, Tensor] = {}

    def train(self, loss_of: Callable[[], tuple[Tensor, dict[str, Tensor]]]) -> None:
        """All steps of the stage; loss_of draws a batch and returns its loss and what to report."""
        config, reported = self.stage.train, []
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for step in range(config.max_steps):
            set_lr(self.optimizer, step, config)
            loss, report = loss_of()
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            self.optimizer.step()
            reported.append({name: value.detach() for name, value in report.items()})
            if (step + 1) % config.log_every == 0 or step + 1 == config.max_steps:
                self.say(f"  step {step + 1} of {config.max_steps}: {_means(reported)}")
                reported = []

    def align_loss(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Each window of some frames should lie near the words for what it shows.

        Of batch_size frames with an event and a sixth as many of any kind. Returns the loss, and it with its parts to
        report: () each.
        """
        size = self.stage.train.batch_size
        picked = [self._event_frame() for _ in range(size)] + [self._any_frame() for _ in range(size // 6)]
        patches = torch.stack([scene.patches[frame] for scene, frame in picked])
        features = self._see(patches, picked[0][0].windows).flatten(0, 1)
        nearest, report, loss = 0, {}, 0
        for kind in VALUES:
            words = self.words(self.ids.kinds[kind])
            labels = torch.stack([scene.shown[kind][frame] for scene, frame in picked]).flatten()
            labels = labels.to(self.device)
            part, report[kind] = word_loss(features, words, labels)
            nearest = nearest + nn.functional.pad(words, (0, 0, 0, 1))[labels]  # "nothing" is the origin
            loss = loss + part
        distance = (features - nearest).square().sum(-1)
        event = labels < len(words)
        distance = distance[event].mean() + distance[~event].mean()
        return loss + self.stage.distance * distance, {"loss": loss, "distance": distance} | report

    def _event_frame(self) -> tuple[Scene, int]:
        scene = self.scenes[self.rng.integers(len(self.scenes))]
        return scene, scene.event_frames[self.rng.integers(len(scene.event_frames))]

    def _any_frame(self) -> tuple[Scene, int]:
        scene = self.scenes[self.rng.integers(len(self.scenes))]
        return scene, int(self.rng.integers(len(scene.patches)))

    def words(self, ids: Tensor) -> Tensor:
        """Embeddings of words, (V, D)."""
        return self.model.get_input_embeddings().weight[ids.to(self.device)]

    def answer_loss(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of conversations about batch_size clips, and what to report: () each.

        It is that of the answers, plus _time_loss and _name_loss where the stage gives them a weight.
        """
        numbers = self.rng.integers(0, len(self.scenes), self.stage.train.batch_size)
        scenes = [self.scenes[number] for number in numbers]
        batch = self.collate([self.conversation(s, self.rng, self.stage.direct_share) for s in scenes])
        features = torch.stack([self._features(number) for number in numbers])  # (B, T*W, D)
        text = ("input_ids", "attention_mask", "mm_token_type_ids", "labels")
        with self._autocast():
            out = self.model(
                **{key: batch[key].to(self.device) for key in text},
                mm_encoder_outputs={"video": BaseModelOutputWithPooling(pooler_output=tuple(features))},
                output_hidden_states=True,
                use_cache=False,
            )
        loss, report = out.loss, {"loss": out.loss}
        if self.stage.times:
            times, report["time"] = self._time_loss(out.hidden_states[TIME_LAYER].float(), batch, scenes)
            loss = loss + self.stage.times * times
        if self.stage.names:
            names, report["names"] = self._name_loss(out.hidden_states[NAME_LAYER].float(), batch, scenes)
            loss = loss + self.stage.names * names
        return loss, report

    def _time_loss(self, hidden: Tensor, batch: dict, scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
        """Each visual token should lie near the words for its time: its third of the clip, and its two digits.

        hidden: (B, L, D), states of an LLM layer; batch: the collator's; scenes: B of them, all of the same number of
        frames and windows. Returns the loss and the share of tokens whose nearest third is the right one, () each.
        """
        is_visual = batch["input_ids"] == self.model.config.image_patch_id
        visual = hidden[is_visual.to(self.device)]  # (B*T*W, D)
        digits = self.words(self.ids.digits)
        words = {"time": self.words(self.ids.kinds["time"]), "seconds": digits, "tenths": digits}
        parts = []
        for key, rows in words.items():
            labels = torch.cat([time_labels(scene.timestamps)[key] for scene in scenes]).to(self.device)
            parts.append(word_loss(visual, rows, labels.repeat_interleave(len(scenes[0].windows))))
        return sum(loss for loss, _ in parts), parts[0][1]

    def _name_loss(self, hidden: Tensor, batch: dict, scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
        """Each token of the text that names an event should lie near the other words that are true of that event.

        hidden: (B, L, D), states of an LLM layer; batch: the collator's; scenes: B of them. Returns the loss and the
        share of names whose nearest words are the right ones, () each.
        """
        rows = zip(batch["input_ids"], scenes, strict=True)
        labels = [name_labels(row, scene.events, len(scene.timestamps), self.ids) for row, scene in rows]
        parts = []
        for kind in KINDS:
            wanted = torch.stack([of_row[kind] for of_row in labels]).flatten().to(self.device)
            words = self.words(self.ids.kinds[kind])
            parts.append(word_loss(hidden.flatten(0, 1), words, wanted, NOTHING_WEIGHT))
        return sum(loss for loss, _ in parts), sum(share for _, share in parts) / len(parts)

    def _features(self, number: int) -> Tensor:
        """What the LLM is given of one scene: (T*W, D)."""
        scene = self.scenes[number]
        if self.sees_anew:
            return self._see(scene.patches, scene.windows).flatten(0, 1)
        if number not in self.seen:
            with torch.no_grad():
                self.seen[number] = self._see(scene.patches, scene.windows).flatten(0, 1)
        return self.seen[number]

    def _see(self, patches: Tensor, windows: Tensor) -> Tensor:
        """uint8 patches (F, N, C), patches of each window (W, p * p) -> visual tokens (F, W, D)."""
        first = torch.arange(len(patches))[:, None, None] * patches.shape[1]
        grid = torch.tensor([[len(patches) * len(windows), 1, 0, 0]])
        given = (patches, (windows + first).flatten(0, 1), grid)
        patches, pooling, grid = (tensor.to(self.device) for tensor in given)
        with self._autocast():
            out = self.model.model.get_image_features(normalize(patches), pooling, grid)
        return out.pooler_output[0].float().unflatten(0, (len(patches), len(windows)))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


def _means(reported: Sequence[Mapping[str, float]]) -> str:
    return ", ".join(f"{name} {np.mean([float(r[name]) for r in reported]):.3f}" for name in reported[0])
