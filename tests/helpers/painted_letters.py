"""Clips painted in a letter's grey, and a stand-in for the model that reads it: what is asked is known exactly."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stts.data import VideoProcessor
from stts.data.video.config import VideoConfig
from stts.eval.config import EvalConfig
from stts.eval.tasks import Question
from stts.pruning.config import STTSConfig
from stts.pruning.layout import BatchLayout
from stts.pruning.visual_tokens import VisualTokens

WINDOWS = 9
GREYS = (30, 90, 150, 210)
"""How bright a clip is painted, by the letter it stands for: A, B, C, D."""
SECONDS = (1.0, 3.0, 2.0, 1.5, 2.5)
"""Lengths of the clips, all different, so that rows of a batch differ too."""
CONFIG = EvalConfig("painted", VideoConfig(16), batch_size=3, progress=False)


class Painted(nn.Module):
    """Stands in for the model: answers with the letter each clip is painted in.

    Windows go from the end of the clip (policy scorer) or by chance (random). Everywhere but at the end of a
    prompt the likeliest token is the letter after the right one: reading elsewhere gives a wrong answer.
    """

    def __init__(self, processor: VideoProcessor, ratio: float = 0.5, policy: str = "scorer") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.stts = STTSConfig(prune_ratio=ratio, policy=policy)
        self.tokenizer = processor.tokenizer
        self.letters = self.tokenizer.convert_tokens_to_ids(list("ABCDEF"))
        self.say: Callable[[int], str] = lambda letter: "ABCD"[letter]
        self.asked = 0
        self.encoded: list[int] = []
        """The letters of the videos that were encoded, one by one."""
        self.keeps: dict[int, list[bool]] = {}
        """Of each video, by its number of frames."""
        self.lengths: list[int] = []
        self.batches: list[int] = []
        """Questions of each pass."""
        self.stop_after: int | None = None

    def encode_videos(
        self,
        pixel_values_videos: Tensor,
        video_token_pooling: Tensor,
        video_grids: Tensor,
        window_scores: Tensor,
    ) -> VisualTokens:
        """One video: a token for each window that is left, which holds the letter and nothing else."""
        assert not torch.is_grad_enabled()
        assert not self.training
        ((frames, _, _),) = video_grids.tolist()
        assert len(video_token_pooling) == frames * WINDOWS
        assert window_scores.shape == (frames, WINDOWS)
        letter = int(np.abs(np.subtract(GREYS, pixel_values_videos.float().mean().item())).argmin())
        self.encoded.append(letter)
        drop = min(int(frames * WINDOWS * self.stts.prune_ratio + 1e-6), (frames - 1) * WINDOWS)
        rank = (
            torch.rand(frames * WINDOWS) if self.stts.policy == "random" else -torch.arange(frames * WINDOWS)
        )
        keep = torch.ones(frames * WINDOWS, dtype=torch.bool)
        keep[rank.argsort()[:drop]] = False
        self.keeps[frames] = keep.tolist()
        return VisualTokens(torch.full((int(keep.sum()), 1), float(letter)), keep.view(frames, WINDOWS))

    def _look(self, visual: VisualTokens, layout: BatchLayout) -> tuple[list[int], list[Tensor]]:
        if self.asked == self.stop_after:
            raise KeyboardInterrupt
        self.asked += 1
        keeps = visual.keep.split(list(layout.frames_per_video))
        rows = visual.features.split([int(keep.sum()) for keep in keeps])
        self.batches.append(len(rows))
        assert all((row == row[0]).all() for row in rows)
        return [int(row[0]) for row in rows], list(keeps)

    def forward(
        self,
        visual: VisualTokens,
        layout: BatchLayout,
        attention_mask: Tensor,
        logits_to_keep: Tensor,
        **_: Any,
    ) -> SimpleNamespace:
        letters, keeps = self._look(visual, layout)
        lengths = [int(mask.sum() - (~keep).sum()) for mask, keep in zip(attention_mask, keeps, strict=True)]
        self.lengths += lengths
        logits = torch.zeros(len(letters), max(lengths), len(self.tokenizer))
        for row, (letter, length) in enumerate(zip(letters, lengths, strict=True)):
            logits[row, :, self.letters[(letter + 1) % 4]] = 5
            logits[row, length - 1, self.letters[letter]] = 9
            logits[row, length - 1, self.letters[5]] = 50  # "F", which no question here has
        return SimpleNamespace(logits=logits[:, logits_to_keep])

    def generate(self, input_ids: Tensor, **inputs: Any) -> Tensor:
        letters, _ = self._look(inputs["visual"], inputs["layout"])
        replies = [
            self.tokenizer(self.say(letter))["input_ids"] + [self.tokenizer.eos_token_id]
            for letter in letters
        ]
        longest = max(map(len, replies))
        new = torch.tensor([reply + [inputs["pad_token_id"]] * (longest - len(reply)) for reply in replies])
        return torch.cat([input_ids, new[:, : inputs["max_new_tokens"]]], 1)


@dataclass(frozen=True)
class Setting:
    """What the tests share: a processor and clips, each a uniform grey."""

    processor: VideoProcessor
    videos: list[Path]
    tiny: Path


def questions_about(videos: Sequence[Path], each: int = 2) -> list[Question]:
    """Questions about painted clips whose right answer is the painted letter, but for each third one."""
    questions = []
    for number, video in enumerate(videos):
        for part in range(each):
            i = number * each + part
            answer = (number + (i % 3 == 2)) % 4
            text = f"Which letter{' is it' * (i % 4)}?"
            options = ("red", "green", "blue", "white")
            questions.append(Question(f"q{i}", video, text, options, answer, "even" if i % 2 == 0 else "odd"))
    return questions


def read_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


TIMES = ("seconds", "questions_per_second", "frames_per_second")


def without_time(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_time(item) for key, item in value.items() if key not in TIMES}
    return [without_time(item) for item in value] if isinstance(value, list) else value


def counts(part: dict[str, Any]) -> tuple[float, int, int]:
    low, high = part["interval"]
    assert 0 <= low <= part["accuracy"] <= high <= 1
    return part["accuracy"], part["n"], part["unparsed"]


class OneOf:
    """One of several processes, played by threads; `order` is who came to which meeting."""

    def __init__(self, rank: int, meeting: threading.Barrier) -> None:
        self.process_index, self.num_processes, self.meeting = rank, meeting.parties, meeting

    def wait_for_everyone(self) -> None:
        self.meeting.wait(60)
