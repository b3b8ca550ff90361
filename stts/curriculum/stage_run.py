"""One stage of the curriculum: its batches, its losses, its loop. It asks the host where things are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..data.feed.collator import Collator
from ..data.processors.base import Example, Processor
from ..data.synthetic.questions import VALUES
from ..hosts.base import Clips
from ..hosts.classes import host_of
from ..pruning.blocks import Blocks
from ..pruning.visual_tokens import VisualTokens
from ..train.config import TrainConfig
from ..train.optim import build_optimizer, freeze, set_lr
from .scenes import Scene, conversation
from .word_losses import IGNORE, KINDS, NOTHING_WEIGHT, WordIds, name_labels, word_loss

TIME_LAYER, NAME_LAYER = 1, 2
"""LLM layers after which visual tokens should know their time, and names what they name."""


class StageRun:
    """A model, of a transformers class, in one stage, on the device where it is; clips and labels stay on the CPU
    until they are needed."""

    def __init__(
        self,
        model: PreTrainedModel,
        processor: Processor,
        scenes: Sequence[Scene],
        stage: Any,
        rng: np.random.Generator,
        say: Callable[[str], None],
    ) -> None:
        self.model, self.processor, self.scenes = model.train(), processor, scenes
        self.stage, self.rng, self.say = stage, rng, say
        self.host = host_of(type(model))(model)
        self.host.set_blocks(Blocks(self.host.blocks))  # of which a host may ask what single ones say
        self.device = model.device
        self.bf16 = stage.train.in_bf16(self.device.type)
        self.ids = WordIds.of(processor.tokenizer)
        self.collate = Collator(processor.pad_token_id, video_form=processor.video_form)
        freeze(model, stage.train.lr)
        self.optimizer = build_optimizer(model, stage.train)
        rates = stage.train.lr
        self.sees_anew = bool(rates.vision or rates.adapter)  # else each scene's features are computed once
        self.seen: dict[int, VisualTokens] = {}

    def train(self, loss_of: Callable[[], tuple[Tensor, dict[str, Tensor]]]) -> None:
        """All steps of the stage; loss_of draws a batch and returns its loss and what to report."""
        config: TrainConfig = self.stage.train
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        reported = []
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

    # ------------------------------------------------------------------ single units

    def align_loss(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Each window of some units should lie near the words for what it shows.

        Of batch_size units with an event and a sixth as many of any kind. Features beside the visual tokens, which
        the LLM adds to them later, should be small. Returns the loss, and it with its parts to report: () each.
        """
        size = self.stage.train.batch_size
        picked = [self._event_unit() for _ in range(size)] + [self._any_unit() for _ in range(size // 6)]
        form = self.processor.video_form
        seen = self._see([form.unit_of(scene.video, unit) for scene, unit in picked])
        known = torch.cat([scene.shown["colour"][unit] for scene, unit in picked]).to(self.device) != IGNORE
        features = seen.features[known]
        nearest, report, loss = 0, {}, 0
        for kind in VALUES:
            words = self.words(self.ids.kinds[kind])
            labels = torch.cat([scene.shown[kind][unit] for scene, unit in picked]).to(self.device)[known]
            part, report[kind] = word_loss(features, words, labels)
            nearest = nearest + nn.functional.pad(words, (0, 0, 0, 1))[labels]  # "nothing" is the origin
            loss = loss + part
        distance = (features - nearest).square().sum(-1)
        event = labels < len(words)
        distance = distance[event].mean() + distance[~event].mean()
        for beside in (x for parts in seen.extra.values() for x in parts):
            distance = distance + beside.square().sum(-1).mean()
        return loss + self.stage.distance * distance, {"loss": loss, "distance": distance} | report

    def _event_unit(self) -> tuple[Scene, int]:
        scene = self.scenes[self.rng.integers(len(self.scenes))]
        return scene, scene.event_units[self.rng.integers(len(scene.event_units))]

    def _any_unit(self) -> tuple[Scene, int]:
        scene = self.scenes[self.rng.integers(len(self.scenes))]
        return scene, int(self.rng.integers(len(scene.shown["colour"])))

    def words(self, ids: Tensor) -> Tensor:
        """Embeddings of words, (V, D)."""
        return self.model.get_input_embeddings().weight[ids.to(self.device)]

    # ------------------------------------------------------------------ conversations

    def answer_loss(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of conversations about batch_size clips, and what to report: () each.

        It is that of the answers, plus _time_loss and _name_loss where the stage gives them a weight.
        """
        numbers = self.rng.integers(0, len(self.scenes), self.stage.train.batch_size)
        scenes = [self.scenes[number] for number in numbers]
        share = self.stage.direct_share
        batch = self.collate([conversation(s, self.processor, self.rng, share) for s in scenes])
        names = ("input_ids", "attention_mask", "mm_token_type_ids", "labels")
        batch = {name: batch[name].to(self.device) for name in names}
        with self._autocast():
            out = self.model(
                **batch,
                **self._videos(numbers, batch),
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

    def _videos(self, numbers: Sequence[int], batch: dict[str, Tensor]) -> dict[str, Any]:
        """The clips of some scenes, encoded, as the model takes them, and where their tokens are in the text."""
        rows = [self._tokens(number) for number in numbers]
        extra = {name: list(zip(*(row.extra[name] for row in rows), strict=True)) for name in rows[0].extra}
        encoded = self.host.output([row.features for row in rows], extra)
        clips = [self.host.clips(self.scenes[number].video) for number in numbers]
        together = Clips(
            sum((x.frames for x in clips), ()), sum((x.grids for x in clips), ()), self.host.unit
        )
        places = self.host.positions(batch["input_ids"], batch["attention_mask"], batch, together)
        given = {} if places is None else {"position_ids": places[0]}
        return given | {"mm_encoder_outputs": {self.host.modality: encoded}}

    def _time_loss(self, hidden: Tensor, batch: dict, scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
        """Each visual token should lie near the words for its time: its third of the clip, and its two digits.

        hidden: (B, L, D), states of an LLM layer; batch: the collator's; scenes: B of them. Returns the loss and the
        share of tokens whose nearest third is the right one, () each.
        """
        visual = hidden[self.host.placeholders(batch["input_ids"], batch)]  # (all windows, D)
        digits = self.words(self.ids.digits)
        words = {"time": self.words(self.ids.kinds["time"]), "seconds": digits, "tenths": digits}
        parts = []
        for key, rows in words.items():
            labels = torch.cat([scene.times[key].flatten() for scene in scenes])
            parts.append(word_loss(visual, rows, labels.to(self.device)))
        return sum(loss for loss, _ in parts), parts[0][1]

    def _name_loss(self, hidden: Tensor, batch: dict, scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
        """Each token of the text that names an event should lie near the other words that are true of that event.

        hidden: (B, L, D), states of an LLM layer; batch: the collator's; scenes: B of them. Returns the loss and the
        share of names whose nearest words are the right ones, () each.
        """
        rows = zip(batch["input_ids"].cpu(), scenes, strict=True)
        labels = [name_labels(row, scene.events, len(scene.clip.timestamps), self.ids) for row, scene in rows]
        parts = []
        for kind in KINDS:
            wanted = torch.stack([of_row[kind] for of_row in labels]).flatten().to(self.device)
            words = self.words(self.ids.kinds[kind])
            parts.append(word_loss(hidden.flatten(0, 1), words, wanted, NOTHING_WEIGHT))
        return sum(loss for loss, _ in parts), sum(share for _, share in parts) / len(parts)

    # ------------------------------------------------------------------ seeing

    def _tokens(self, number: int) -> VisualTokens:
        """What the LLM is given of one scene."""
        video = self.scenes[number].video
        if self.sees_anew:
            return self._see([video])
        if number not in self.seen:
            with torch.no_grad():
                self.seen[number] = self._see([video])
        return self.seen[number]

    def _see(self, videos: Sequence[Example]) -> VisualTokens:
        """Videos, their pixels as bytes -> the visual tokens of all of them, nothing pruned."""
        batch = self.processor.video_form.join(videos)
        clips, pixels = self.host.clips(batch), self.host.keys[0]
        batch = {name: x.to(self.device) for name, x in batch.items()}
        with self._autocast():
            features, extra = self.host.encode(batch | {pixels: self.host.floats(batch[pixels])}, clips)
        extra = {name: [x.float() for x in parts] for name, parts in extra.items()}
        return VisualTokens(features.float(), torch.ones(len(features), 1, dtype=torch.bool), extra=extra)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


def _means(reported: Sequence[Mapping[str, float]]) -> str:
    return ", ".join(f"{name} {np.mean([float(r[name]) for r in reported]):.3f}" for name in reported[0])
