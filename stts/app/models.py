"""The models of the page: loaded once, and used by one visitor at a time under settings of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from ..chat import answer, load, prompt_inputs, spec_of
from ..data.processors.base import Processor
from ..hosts.folders import find_folder, says_trained
from ..pruning.config import STTSConfig
from ..settings.run_names import name_of_weights
from ..viz.kept_video import KeptVideo, Shown, in_words, kept_of
from .config import AppConfig
from .cost import limit_of
from .jobs import Job
from .watch import Seconds, watched

ROUNDS, ENOUGH = 8, 1.0
"""Times that each setting is asked, and seconds after which no further round begins: the quickest of each counts."""


@dataclass(frozen=True)
class Setting:
    """One side of a comparison."""

    model: str
    policy: str
    prune_ratio: float

    @property
    def words(self) -> str:
        """What is done to the video."""
        none = self.policy == "none" or not self.prune_ratio
        return "no pruning" if none else f"{self.policy}, {self.prune_ratio:.0%} dropped"

    @property
    def unpruned(self) -> Setting:
        """The same model without pruning."""
        return Setting(self.model, "none", 0.0)


@dataclass(frozen=True)
class Loaded:
    """A model that is ready."""

    label: str
    given: str
    """What the settings call it."""
    model: nn.Module
    processor: Processor
    trained: bool
    """Whether it has a scorer that has learned."""


@dataclass(frozen=True)
class Answer:
    """What became of a question under one setting."""

    setting: Setting
    reply: str
    kept: int
    windows: int
    seconds: Seconds
    limit: float | None
    """How many times faster the prompt can be than without pruning, by arithmetic."""


class Models:
    """Those of the settings, by label. Only one visitor computes at a time: settings belong to the model."""

    def __init__(self, config: AppConfig) -> None:
        self.config, self.lock = config, threading.Lock()
        self.by_label = {one.label: one for one in map(self._load, config.models)}
        self.first = next(iter(self.by_label))

    def _load(self, name: str) -> Loaded:
        torch.manual_seed(self.config.seed)  # of the scorer of a model that has none yet
        model, processor = load(name, self.config.device)
        folder = find_folder(spec_of(name), key="models")
        label = name_of_weights(None, name, name)
        return Loaded(label, name, model.eval(), processor, says_trained(folder))

    def start(self, label: str) -> Setting:
        """What is chosen before anybody has."""
        policy = self.config.policy or ("scorer" if self.by_label[label].trained else "temporal")
        return Setting(label, policy, self.config.prune_ratio)

    def words(self, setting: Setting) -> str:
        """What stands above a side; which model it is, where there are several."""
        return f"{setting.model}, {setting.words}" if len(self.by_label) > 1 else setting.words

    def warning(self, setting: Setting) -> str | None:
        """What to say of a setting that shows little."""
        if setting.policy == "scorer" and setting.prune_ratio and not self.by_label[setting.model].trained:
            return f"{setting.model} has no trained scorer: a random one decides which windows are dropped."
        return None

    @contextmanager
    def using(self, setting: Setting, job: Job) -> Iterator[nn.Module]:
        """The model under these settings, and nobody else in it."""
        model = self.by_label[setting.model].model
        stts: STTSConfig = model.stts.replace(policy=setting.policy, prune_ratio=setting.prune_ratio)
        job.hold(self.lock, "waiting for another visitor")
        try:
            model.stts = stts
            yield model
        finally:
            self.lock.release()

    def look(self, setting: Setting, shown: Shown, job: Job) -> KeptVideo:
        """What the model keeps of a clip."""
        processor, seed = self.by_label[setting.model].processor, self.config.seed
        with self.using(setting, job) as model, watched(model, lambda share: job.tell("looking", share)):
            return kept_of(model, processor, shown.clip, shown.pictures, shown.name, shown.aspect, seed)

    def ask(
        self, settings: Sequence[tuple[Setting, Shown]], question: str, options: Sequence[str], job: Job
    ) -> list[Answer]:
        """Put a question to each of the settings in turns, as often as there is time for."""
        best: dict[int, Answer] = {}
        begun = time.monotonic()
        for round_ in range(ROUNDS):
            for number, (setting, shown) in enumerate(settings):
                doing = f"asking: {setting.words}" + (f", once more ({round_ + 1})" if round_ else "")
                found = self._ask(setting, shown, question, options, job, doing)
                if number not in best or found.seconds.prompt < best[number].seconds.prompt:
                    best[number] = found
            if time.monotonic() - begun > ENOUGH:
                break
        return [best[number] for number in range(len(settings))]

    def _ask(
        self,
        setting: Setting,
        shown: Shown,
        question: str,
        options: Sequence[str],
        job: Job,
        doing: str,
    ) -> Answer:
        processor, clip = self.by_label[setting.model].processor, shown.clip
        words = self.config.max_new_tokens
        with self.using(setting, job) as model:
            prompt = prompt_inputs(processor, question, clip, options)
            torch.manual_seed(self.config.seed)
            with watched(model, lambda share: job.tell(doing, share)) as seconds:
                reply = answer(model, processor, question, clip, options, max_new_tokens=words)
            units, rows, cols = processor.window_grid(clip)
            keep, windows = model.last_keep_windows, units * rows * cols
            parts = keep if isinstance(keep, list) else [keep]
            kept = windows if keep is None else sum(int(part.sum()) for part in parts)
            ratio = setting.prune_ratio if kept < windows else 0.0
            limit = limit_of(model, processor, clip, prompt, ratio)
        return Answer(setting, in_words(reply, options), kept, windows, seconds, limit)
