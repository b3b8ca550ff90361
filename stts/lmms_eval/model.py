"""The model as lmms-eval takes it: ChatSTTS for its messages, STTS (--force_simple) for tasks that score answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ..chat import load, warn_past_context
from ..data.feed.collator import Collator
from ..data.processors.base import IGNORE
from ..data.video.read import Clip, read_video

PASSED_ON = ("max_new_tokens", "do_sample", "temperature", "top_p", "num_beams")
"""What of a task's generation_kwargs goes to generate; `until` ends the reply."""
CLIPS_IN_MEMORY = 2
"""Decoded clips held for further questions about them."""

Turns = list[dict[str, str]]
Range = tuple[str, float | None, float | None]
"""A video file, and the seconds between which it is shown."""


class STTS(lmms):
    """lmms-eval's "simple" model: a context, and a video to go with it.

    pretrained: "tiny", a folder, or a hub id; prune_ratio, policy: as in STTSConfig; max_num_frames, max_fps: as
    in stts.data.read_video. Raises ValueError for a batch size above 1, for images, and for several videos.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = "tiny",
        prune_ratio: float = 0.5,
        policy: str = "scorer",
        max_num_frames: int = 128,
        max_fps: float = 2.0,
        batch_size: int | str = 1,
        device: str | None = None,
    ) -> None:
        super().__init__()
        if str(batch_size) != "1":
            raise ValueError(f"batch_size is {batch_size}, must be 1")
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.device = (
            self.accelerator.device if self._world_size > 1 or device is None else torch.device(device)
        )
        self.model, self.processor = load(
            pretrained, str(self.device), prune_ratio=float(prune_ratio), policy=policy
        )
        self.model.eval()
        self.collate = Collator(self.processor.pad_token_id, video_form=self.processor.video_form)
        size = self.processor.image_size

        @lru_cache(maxsize=CLIPS_IN_MEMORY)
        def read(path: str, start: float | None, end: float | None) -> Clip:
            return read_video(path, int(max_num_frames), float(max_fps), start=start, end=end, size=size)

        self.read = read

    def turns_of(self, request: Instance) -> tuple[Turns, Range | None, Any]:
        """A request as user turns, the video it shows, and what it wants of the reply."""
        context, wanted, doc_to_visual, doc_id, task, split = request.args
        doc = self.task_dict[task][split][doc_id]
        visuals = [one for one in doc_to_visual(doc) or [] if one is not None]
        wanted = wanted(doc) if callable(wanted) else wanted
        return (
            [{"role": "user", "content": context}],
            the_video([(one, None, None) for one in visuals]),
            wanted,
        )

    def generate_until(self, requests: Sequence[Instance]) -> list[str]:
        """The reply to each request, in their order."""
        replies = []
        for request in self._with_progress(requests):
            turns, video, wanted = self.turns_of(request)
            replies.append(self.reply(turns, video, wanted))
            self.cache_hook.add_partial("generate_until", (request.args[0], wanted), replies[-1])
        return replies

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        """The mean loss of each continuation, which is what lmms-eval takes the lowest of, and whether greedy
        decoding would write it."""
        return [self.score_answer(*self.turns_of(request)) for request in self._with_progress(requests)]

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        raise NotImplementedError("stts answers in one round: choose tasks of output_type generate_until")

    def reply(self, turns: Turns, video: Range | None, wanted: Mapping[str, Any]) -> str:
        """Generate, greedily unless a task wants otherwise, up to the first of its stop texts."""
        batch = self._batch(turns, video, add_generation_prompt=True)
        options = {"max_new_tokens": 64, "do_sample": False}
        options |= {key: wanted[key] for key in PASSED_ON if wanted.get(key) is not None}
        if not options.get("temperature"):  # tasks say temperature=0 for greedy
            options = {key: options[key] for key in options if key not in ("temperature", "top_p")}
        with torch.no_grad():
            tokens = self.model.generate(**batch, **options, pad_token_id=self.processor.pad_token_id)
        text = self.processor.tokenizer.decode(
            tokens[0, batch["input_ids"].shape[1] :], skip_special_tokens=True
        )
        stops = wanted.get("until") or []
        for stop in [stops] if isinstance(stops, str) else stops:
            text = text.split(stop)[0] if stop else text
        return text.strip()

    def score_answer(self, turns: Turns, video: Range | None, answer: str) -> tuple[float, bool]:
        """Mean loss of an answer after these turns, its end token left out, and whether it is the greedy one."""
        example = self._example([*turns, {"role": "assistant", "content": answer.strip()}], video)
        batch = self.collate([example])
        labels = batch["labels"][0].where(batch["labels"][0] != self.processor.tokenizer.eos_token_id, IGNORE)
        with torch.no_grad():
            output = self.model(**self._inputs(batch))
        labels = labels[output.keep_mask[0].cpu()]
        logits, labels = output.logits[0, :-1].float().cpu(), labels[1:]
        greedy = (logits.argmax(-1) == labels) | (labels == IGNORE)
        return F.cross_entropy(logits, labels, ignore_index=IGNORE).item(), bool(greedy.all())

    def _example(self, turns: Turns, video: Range | None, **options: Any) -> dict[str, Tensor]:
        example = self.processor(turns, None if video is None else self.read(*video), **options)
        warn_past_context(self.processor, self.model.stts, example)
        return example

    def _batch(self, turns: Turns, video: Range | None, **options: Any) -> dict[str, Any]:
        return self._inputs(self.collate([self._example(turns, video, **options)]))

    def _inputs(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        return {k: v.to(self.device) for k, v in batch.items() if isinstance(v, Tensor) and k != "labels"}

    def _with_progress(self, requests: Sequence[Instance]) -> Sequence[Instance]:
        return tqdm(requests, desc="stts", disable=self.rank != 0)


class ChatSTTS(STTS):
    """lmms-eval's "chat" model: messages with the video among them."""

    is_simple = False

    def turns_of(self, request: Instance) -> tuple[Turns, Range | None, Any]:
        _, doc_to_messages, wanted, doc_id, task, split = request.args
        return *from_messages(doc_to_messages(self.task_dict[task][split][doc_id])), wanted


def from_messages(messages: Sequence[Mapping[str, Any]]) -> tuple[Turns, Range | None]:
    """lmms-eval's messages -> turns of text, and the video, which goes in front of them wherever it stood.

    What the system says is put before what the user says first. Raises ValueError for images, audio and several
    videos.
    """
    turns, media, system = [], [], []
    for message in messages:
        parts = message["content"]
        parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
        media += [(p["url"], p.get("start_time"), p.get("end_time")) for p in parts if p["type"] != "text"]
        text = "\n".join(part["text"] for part in parts if part["type"] == "text")
        if message["role"] == "system":
            system.append(text)
        else:
            turns.append({"role": message["role"], "content": "\n".join([*system, text])})
            system = []
    return turns, the_video(media)


def the_video(media: Sequence[tuple[Any, float | None, float | None]]) -> Range | None:
    """The one video file among the media of a request; None where there are none."""
    if not media:
        return None
    for one, _, _ in media:
        if not isinstance(one, str | Path):
            raise ValueError(f"a task shows a {type(one).__name__}, must be a video file: stts prunes videos")
    if len(media) > 1:
        raise ValueError(f"a task shows {len(media)} videos at once, must be one")
    path, start, end = media[0]
    return str(path).removeprefix("file://"), start, end
