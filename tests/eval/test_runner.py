from __future__ import annotations

import importlib.util
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console
from torch import Tensor, nn
from transformers import Molmo2ForConditionalGeneration

import stts.eval.reading as watching
from stts.data import VideoError, VideoProcessor, multiple_choice_prompt, read_video, write_video
from stts.eval.config import EvalConfig
from stts.eval.records import Records, check_settings, write_json
from stts.eval.runner import evaluate
from stts.eval.summary import print_results
from stts.eval.tasks import Question
from stts.eval.tasks.subtitles import Subtitles
from stts.hosts.molmo2 import STTSMolmo2ForConditionalGeneration
from stts.hosts.tiny import make_tiny
from stts.pruning.config import STTSConfig
from stts.pruning.layout import BatchLayout
from stts.pruning.visual_tokens import VisualTokens
from stts.settings.launch import CONFIG_DIR, explain
from tests.helpers.kills import killed_at

ROOT = CONFIG_DIR.parent
WINDOWS = 9
GREYS = (30, 90, 150, 210)
"""How bright a clip is painted, by the letter it stands for: A, B, C, D."""
SECONDS = (1.0, 3.0, 2.0, 1.5, 2.5)
"""Lengths of the clips, all different, so that rows of a batch differ too."""
CONFIG = EvalConfig("painted", frames=16, batch_size=3, progress=False)


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
    """What the tests share: a processor and clips, each a uniform grey but the last."""

    processor: VideoProcessor
    videos: list[Path]
    tiny: Path


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("eval")
    tiny = make_tiny(folder / "tiny")
    videos = []
    for number, seconds in enumerate(SECONDS):
        grey = GREYS[number % 4]
        videos.append(folder / f"clip{number}.mp4")
        frames = [np.full((48, 64, 3), grey, np.uint8) for _ in range(int(8 * seconds))]
        write_video(videos[-1], frames, fps=8)
    return Setting(VideoProcessor.from_pretrained(tiny), videos, tiny)


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


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("mode", ["logits", "generate"])
def test_painted_letters_are_read(setting: Setting, tmp_path: Path, mode: str, ratio: float) -> None:
    questions = questions_about(setting.videos)  # 10 questions in batches of 3: every batch mixes lengths
    model = Painted(setting.processor, ratio)
    results = evaluate(model, setting.processor, questions, replace(CONFIG, mode=mode), tmp_path)
    assert (results["accuracy"], results["n"], results["unparsed"]) == (0.7, 10, 0)
    # of q0 .. q9 the wrong ones are q2, q5, q8
    assert counts(results["by_category"]["even"]) == (0.6, 5, 0)
    assert counts(results["by_category"]["odd"]) == (0.8, 5, 0)
    assert model.encoded == [0, 1, 2, 3, 0], "each video once for both of its questions"
    assert max(model.batches) == 3
    frames = [int(2 * seconds) + (seconds % 0.5 == 0) for seconds in SECONDS for _ in range(2)]
    drops = [min(int(t * WINDOWS * ratio + 1e-6), (t - 1) * WINDOWS) for t in frames]
    shares = [1 - drop / (t * WINDOWS) for drop, t in zip(drops, frames, strict=True)]
    assert results["kept"] == pytest.approx(np.mean(shares), abs=1e-6)
    assert [line["id"] for line in read_lines(tmp_path)] == [question.id for question in questions]
    written = [json.loads((tmp_path / name).read_text()) for name in ("results.json", "speed.json")]
    assert written[0] | written[1] == results
    assert not set(TIMES) & set(written[0])
    assert set(TIMES) == set(written[1])
    assert results["settings"]["prune_ratio"] == ratio


def test_only_the_letters_of_a_question_compete(setting: Setting, tmp_path: Path) -> None:
    four = questions_about(setting.videos[:2], each=1)
    six = [replace(question, id=f"{question.id}-six", options=tuple("uvwxyz")) for question in four]
    mixed = [four[0], six[0], four[1], six[1]]
    evaluate(Painted(setting.processor), setting.processor, mixed, CONFIG, tmp_path)
    lines = read_lines(tmp_path)
    assert [line["predicted"] for line in lines] == ["A", "F", "B", "F"]
    assert [len(line["logits"]) for line in lines] == [4, 6, 4, 6]


def test_replies_that_name_no_option_are_wrong(setting: Setting, tmp_path: Path) -> None:
    model = Painted(setting.processor)
    model.say = lambda letter: "no idea" if letter == 1 else f"The answer is {'ABCD'[letter]}."
    config = replace(CONFIG, mode="generate", max_new_tokens=40)
    results = evaluate(model, setting.processor, questions_about(setting.videos), config, tmp_path)
    # clip 1 (q2, q3) is the one painted B; q2 was wrong anyway
    assert (results["accuracy"], results["unparsed"]) == (0.6, 2)
    assert counts(results["by_category"]["odd"]) == (0.6, 5, 1)
    assert [line["predicted"] for line in read_lines(tmp_path)[:4]] == ["A", "A", None, None]
    assert read_lines(tmp_path)[2]["reply"].strip() == "no idea"


def test_evidence_recall(setting: Setting, tmp_path: Path) -> None:
    """The model drops from the end; of clip 1, 7 frames of 9 windows, the last 31 go: of frame 3, 4."""
    box = {"box": [0, 0, 1, 0.25]}  # the first row of windows: 3
    whole = {"box": [0, 0, 1, 1]}
    evidence = {
        "first": [{"start": 0, "end": 0.4} | box],
        "last": [{"start": 2.4, "end": 2.6} | box],
        "both": [{"start": 0, "end": 0.4} | box, {"start": 2.4, "end": 2.6} | box],
        "cut": [{"start": 1.4, "end": 1.6} | whole],  # frame 3, at 1.5 s: 5 of 9 stay
        "unseen": [{"start": 0.1, "end": 0.4} | box],  # between two sampled frames
        "none": [],
    }
    (base,) = questions_about(setting.videos[1:2], each=1)
    questions = [replace(base, id=name, evidence=tuple(items)) for name, items in evidence.items()]
    results = evaluate(Painted(setting.processor), setting.processor, questions, CONFIG, tmp_path / "half")
    recalls = {line["id"]: line["evidence_recall"] for line in read_lines(tmp_path / "half")}
    assert recalls.pop("cut") == pytest.approx(5 / 9)
    assert recalls == {"first": 1.0, "last": 0.0, "both": 0.5, "unseen": None, "none": None}
    assert results["evidence_recall"] == pytest.approx((1 + 0 + 0.5 + 5 / 9) / 4)
    unpruned = evaluate(
        Painted(setting.processor, 0.0), setting.processor, questions, CONFIG, tmp_path / "all"
    )
    assert (unpruned["evidence_recall"], unpruned["kept"]) == (1.0, 1.0)


def test_without_evidence_there_is_no_recall(setting: Setting, tmp_path: Path) -> None:
    results = evaluate(
        Painted(setting.processor), setting.processor, questions_about(setting.videos[:1]), CONFIG, tmp_path
    )
    assert results["evidence_recall"] is None


def test_only_the_asked_part_of_a_video_is_shown(setting: Setting, tmp_path: Path) -> None:
    video = tmp_path / "changes.mp4"
    write_video(video, [np.full((48, 64, 3), GREYS[3 if i < 24 else 0], np.uint8) for i in range(48)], fps=8)
    question = Question("q", video, "Which?", ("a", "b", "c", "d"), 0)
    parts = [replace(question, id="first", end=2.5), replace(question, id="second", start=3.5)]
    evaluate(Painted(setting.processor), setting.processor, parts, CONFIG, tmp_path / "out")
    assert {line["id"]: line["predicted"] for line in read_lines(tmp_path / "out")} == {
        "first": "D",
        "second": "A",
    }


def test_a_video_is_decoded_and_encoded_once_wherever_its_questions_stand(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    real = watching.read_video
    monkeypatch.setattr(
        watching, "read_video", lambda path, *args, **kwargs: read.append(path) or real(path, *args, **kwargs)
    )
    questions = questions_about(setting.videos, each=4)  # 4 questions a video across batches of 3
    questions = questions[::4] + questions[1::4] + questions[2::4] + questions[3::4]
    model = Painted(setting.processor)
    results = evaluate(model, setting.processor, questions, replace(CONFIG, workers=1), tmp_path)
    assert read == setting.videos
    assert model.encoded == [0, 1, 2, 3, 0]
    assert [line["id"] for line in read_lines(tmp_path)] == [question.id for question in questions]
    assert results["videos"] == 5
    part = [replace(question, id=f"{question.id}-part", end=0.7) for question in questions[:1]]
    evaluate(model, setting.processor, [*questions, *part], CONFIG, tmp_path)
    assert read[5:] == setting.videos[:1], "another part of a video is another clip"


def test_a_token_budget_splits_batches(setting: Setting, tmp_path: Path) -> None:
    questions = questions_about(setting.videos, each=1)

    def ask(max_tokens: int) -> Painted:
        model, folder = Painted(setting.processor), tmp_path / str(max_tokens)
        config = replace(CONFIG, batch_size=5, max_tokens=max_tokens)
        evaluate(model, setting.processor, questions, config, folder)
        assert [line["predicted"] for line in read_lines(folder)] == list("ABCDA")
        return model

    together = ask(10_000)
    assert together.batches == [5]
    assert len(set(together.lengths)) == 5, "tokens that survive, of clips of 3, 7, 5, 4 and 6 frames"
    assert ask(1).batches == [1] * 5, "a question over the budget goes alone"
    tokens = 2 * max(together.lengths)
    split = ask(tokens)
    assert split.batches[0] == 2
    assert 1 < len(split.batches) < 5
    rows = iter(split.lengths)
    assert all(size * max(next(rows) for _ in range(size)) <= tokens for size in split.batches)


class TestRestart:
    def ask(
        self, setting: Setting, folder: Path, model: Painted | None = None, **changes: Any
    ) -> dict[str, Any]:
        model = model or Painted(setting.processor)
        questions = changes.pop("questions", None) or questions_about(setting.videos)
        return evaluate(model, setting.processor, questions, replace(CONFIG, **changes), folder)

    @pytest.mark.parametrize("policy", ["scorer", "random"])
    def test_a_stopped_run_goes_on_and_equals_one_that_never_stopped(
        self, setting: Setting, tmp_path: Path, policy: str
    ) -> None:
        evidence = ({"start": 0, "end": 9, "box": [0, 0, 0.5, 0.5]},)
        questions = [replace(question, evidence=evidence) for question in questions_about(setting.videos)]
        whole = self.ask(
            setting, tmp_path / "whole", Painted(setting.processor, policy=policy), questions=questions
        )
        stopping = Painted(setting.processor, policy=policy)
        stopping.stop_after = 1
        with pytest.raises(KeyboardInterrupt):
            self.ask(setting, tmp_path / "parts", stopping, questions=questions)
        assert len(read_lines(tmp_path / "parts")) == 3, "what the first batch gave is on disk"
        assert not (tmp_path / "parts/results.json").exists()
        rest = Painted(setting.processor, policy=policy)
        torch.manual_seed(99)  # nothing may depend on the random state a run begins with
        parts = self.ask(setting, tmp_path / "parts", rest, questions=questions)
        assert rest.batches == [1, 3, 1, 2], "the fourth question of two videos, then two videos, then one"
        assert without_time(parts) == without_time(whole)
        assert without_time(read_lines(tmp_path / "parts")) == without_time(read_lines(tmp_path / "whole"))
        assert (tmp_path / "parts/results.json").read_bytes() == (
            tmp_path / "whole/results.json"
        ).read_bytes()

    def test_a_batch_recorded_in_part_is_asked_whole_and_recorded_once(
        self, setting: Setting, tmp_path: Path
    ) -> None:
        whole = self.ask(setting, tmp_path / "whole", Painted(setting.processor, policy="random"))
        lines = (tmp_path / "whole/predictions.jsonl").read_text().splitlines(keepends=True)
        (tmp_path / "parts").mkdir()
        (tmp_path / "parts/settings.json").write_text((tmp_path / "whole/settings.json").read_text())
        torn = "".join(lines[:4]) + lines[4][:-20]  # killed while the fifth line was being written
        (tmp_path / "parts/predictions.jsonl").write_text(torn)
        parts = self.ask(setting, tmp_path / "parts", Painted(setting.processor, policy="random"))
        assert without_time(parts) == without_time(whole)
        assert without_time(read_lines(tmp_path / "parts")) == without_time(read_lines(tmp_path / "whole"))

    def test_a_finished_run_is_not_asked_again(self, setting: Setting, tmp_path: Path) -> None:
        first = self.ask(setting, tmp_path)
        (tmp_path / "results.json").unlink()
        again = Painted(setting.processor)
        assert self.ask(setting, tmp_path, again) == first
        assert again.asked == 0
        assert (tmp_path / "results.json").exists()

    def test_more_questions_and_other_batches_may_follow(self, setting: Setting, tmp_path: Path) -> None:
        few = self.ask(setting, tmp_path, limit=4)
        assert few["n"] == 4
        rest = Painted(setting.processor)
        assert self.ask(setting, tmp_path, rest, batch_size=5)["n"] == 10
        assert without_time(self.ask(setting, tmp_path, limit=4)) == without_time(few)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"frames": 8}, "frames is 16 there and 8 now"),
            ({"mode": "generate"}, "mode is 'logits' there and 'generate' now"),
            ({"max_fps": 1.0}, "max_fps is 2.0 there and 1.0 now"),
            ({"seed": 1}, "seed is 0 there and 1 now"),
            ({"benchmark": "other"}, "benchmark is 'painted' there and 'other' now"),
            ({"notes": {"checkpoint": "b"}}, "checkpoint is 'a' there and 'b' now"),
        ],
    )
    def test_other_settings_are_refused(
        self, setting: Setting, tmp_path: Path, changes: dict[str, Any], message: str
    ) -> None:
        self.ask(setting, tmp_path, notes={"checkpoint": "a"})
        before = (tmp_path / "predictions.jsonl").read_bytes()
        with pytest.raises(ValueError, match=message) as error:
            self.ask(setting, tmp_path, **{"notes": {"checkpoint": "a"}} | changes)
        assert str(tmp_path) in str(error.value)
        assert (tmp_path / "predictions.jsonl").read_bytes() == before

    def test_another_ratio_policy_or_weights_are_refused(self, setting: Setting, tmp_path: Path) -> None:
        self.ask(setting, tmp_path)
        with pytest.raises(ValueError, match=r"prune_ratio is 0\.5 there and 0\.3 now"):
            self.ask(setting, tmp_path, Painted(setting.processor, 0.3))
        with pytest.raises(ValueError, match="policy is 'scorer' there and 'random' now"):
            self.ask(setting, tmp_path, Painted(setting.processor, policy="random"))
        trained = Painted(setting.processor)
        trained.weight.data[1] = 1e-3
        with pytest.raises(ValueError, match="weights is "):
            self.ask(setting, tmp_path, trained)

    def test_random_draws_belong_to_the_video(self, setting: Setting, tmp_path: Path) -> None:
        questions = questions_about(setting.videos)
        models = [Painted(setting.processor, policy="random") for _ in range(3)]
        self.ask(setting, tmp_path / "a", models[0])
        self.ask(setting, tmp_path / "b", models[1], questions=questions[::-1], batch_size=7)
        self.ask(setting, tmp_path / "c", models[2], seed=1)
        assert sorted(models[0].keeps) == [3, 4, 5, 6, 7]
        assert models[0].keeps == models[1].keeps
        assert all(models[0].keeps[frames] != models[2].keeps[frames] for frames in (5, 6, 7))

    def test_data_that_moved_is_the_same_data(self, setting: Setting, tmp_path: Path) -> None:
        first = self.ask(setting, tmp_path)
        moved = [replace(q, video=Path("/elsewhere") / q.video.name) for q in questions_about(setting.videos)]
        assert self.ask(setting, tmp_path, questions=moved) == first

    def test_files_of_several_processes_are_put_together(self, setting: Setting, tmp_path: Path) -> None:
        """As a run of three processes leaves them that was killed: each with a file, one line torn, one twice."""
        whole = self.ask(setting, tmp_path / "whole")
        lines = (tmp_path / "whole/predictions.jsonl").read_text().splitlines(keepends=True)
        (tmp_path / "parts").mkdir()
        (tmp_path / "parts/settings.json").write_text((tmp_path / "whole/settings.json").read_text())
        for name, text in {
            "predictions-1.jsonl": lines[6] + lines[4],
            "predictions-2.jsonl": lines[6] + lines[5] + lines[7] + lines[9][:-9],
            "predictions-10.jsonl": lines[2],
        }.items():
            (tmp_path / "parts" / name).write_text(text)
        model = Painted(setting.processor)
        assert without_time(self.ask(setting, tmp_path / "parts", model)) == without_time(whole)
        assert sum(model.batches) == 6, "the four questions about two of the videos were recorded"
        names = sorted(path.name for path in (tmp_path / "parts").iterdir())
        assert names == ["predictions.jsonl", "results.json", "settings.json", "speed.json"]
        ids = [line["id"] for line in read_lines(tmp_path / "parts")]
        assert ids == [f"q{i}" for i in range(10)]
        (tmp_path / "parts/predictions.jsonl").rename(tmp_path / "parts/predictions-3.jsonl")
        with pytest.raises(ValueError, match="frames is 16 there and 8 now"):
            self.ask(setting, tmp_path / "parts", frames=8)

    def test_a_changed_benchmark_is_refused(self, setting: Setting, tmp_path: Path) -> None:
        self.ask(setting, tmp_path)
        questions = questions_about(setting.videos)
        questions[4] = replace(questions[4], options=("1", "2", "3", "4"))
        with pytest.raises(ValueError, match="question 'q4' with another options: the benchmark has changed"):
            self.ask(setting, tmp_path, questions=questions)

    def test_predictions_that_cannot_be_trusted_are_refused(self, setting: Setting, tmp_path: Path) -> None:
        self.ask(setting, tmp_path)
        path = tmp_path / "predictions.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([*lines[:2], "[1, 2]\n", *lines[3:]]))
        with pytest.raises(ValueError, match=r"predictions\.jsonl:3: not a prediction"):
            self.ask(setting, tmp_path)
        path.write_text("".join(lines))
        (tmp_path / "settings.json").unlink()
        with pytest.raises(ValueError, match=r"settings\.json does not say how predictions\.jsonl"):
            self.ask(setting, tmp_path)


class TestBadVideos:
    def questions(self, setting: Setting, tmp_path: Path) -> list[Question]:
        broken = tmp_path / "broken.mp4"
        broken.write_text("no video")
        good = questions_about(setting.videos)
        bad = [replace(good[0], id=f"bad{i}", video=broken, category="bad") for i in range(4)]
        return [*good[:2], *bad, *good[2:]]  # one batch has both, one has only bad ones

    def test_they_stop_the_run_and_are_named(self, setting: Setting, tmp_path: Path) -> None:
        with pytest.raises(VideoError, match=r"broken\.mp4"):
            evaluate(
                Painted(setting.processor),
                setting.processor,
                self.questions(setting, tmp_path),
                CONFIG,
                tmp_path,
            )

    @pytest.mark.parametrize("mode", ["logits", "generate"])
    def test_or_count_as_wrong(self, setting: Setting, tmp_path: Path, mode: str) -> None:
        config = replace(CONFIG, bad_videos="wrong", mode=mode)
        questions = self.questions(setting, tmp_path)
        results = evaluate(Painted(setting.processor), setting.processor, questions, config, tmp_path / "out")
        assert results["accuracy"] == pytest.approx(7 / 14)
        assert (results["bad_videos"], results["unparsed"], results["n"]) == (4, 0, 14)
        assert results["by_category"]["bad"]["accuracy"] == 0
        bad = next(line for line in read_lines(tmp_path / "out") if line["id"] == "bad0")
        assert (bad["predicted"], bad["correct"], bad["kept"]) == (None, False, None)
        assert "broken.mp4" in bad["error"]

    def test_texts_that_cannot_be_asked_cost_only_their_question(
        self, setting: Setting, tmp_path: Path
    ) -> None:
        good = questions_about(setting.videos)
        (tmp_path / "gbk.srt").write_bytes("1\n00:00:00,000 --> 00:00:09,000\n你好".encode("gbk"))
        (tmp_path / "token.srt").write_text("1\n00:00:00,000 --> 00:00:09,000\na <im_patch>")
        changes = {
            "gbk": {"subtitles": Subtitles(tmp_path / "gbk.srt")},
            "token": {"subtitles": Subtitles(tmp_path / "token.srt")},
            "text": {"question": "What is <im_patch>?"},
        }
        questions = good + [replace(good[0], id=name, **change) for name, change in changes.items()]
        model, out = Painted(setting.processor), tmp_path / "out"
        with pytest.raises(ValueError, match=r"question '(gbk|token|text)': "):
            evaluate(model, setting.processor, questions, CONFIG, tmp_path / "stop")
        config = replace(CONFIG, bad_videos="wrong")
        results = evaluate(model, setting.processor, questions, config, out)
        alone = evaluate(model, setting.processor, good, config, tmp_path / "alone")
        assert (results["bad_videos"], results["bad_questions"], results["n"]) == (0, 3, len(good) + 3)
        assert results["accuracy"] * results["n"] == pytest.approx(alone["accuracy"] * alone["n"])
        errors = {line["id"]: line["error"] for line in read_lines(out) if line["error"]}
        assert "gbk.srt: cannot be read as subtitles" in errors["gbk"]
        assert "special token '<im_patch>'" in errors["token"]
        assert "special token '<im_patch>'" in errors["text"]


class TestBadQuestions:
    """One that cannot be asked about a video that can be seen."""

    def questions(self, setting: Setting, tmp_path: Path) -> list[Question]:
        good = questions_about(setting.videos)
        (tmp_path / "odd.srt").write_text("neither number nor time")
        odd = Subtitles(tmp_path / "odd.srt")
        special = replace(good[0], id="special", question="What is <|im_end|>?")
        alone = replace(
            good[1], id="alone", start=0.5, question="<im_patch>?"
        )  # nobody else asks about its clip
        return [*good[:2], special, replace(good[2], id="odd", subtitles=odd), alone, *good[2:]]

    @pytest.mark.parametrize(("name", "reason"), [("special", "special token"), ("odd", r"odd\.srt")])
    def test_they_stop_the_run_and_are_named(
        self, setting: Setting, tmp_path: Path, name: str, reason: str
    ) -> None:
        asked = [question for question in self.questions(setting, tmp_path) if question.id in (name, "q0")]
        with pytest.raises(ValueError, match=f"question '{name}': .*{reason}"):
            evaluate(Painted(setting.processor), setting.processor, asked, CONFIG, tmp_path)

    def test_or_count_as_wrong_alone(self, setting: Setting, tmp_path: Path) -> None:
        config, questions = replace(CONFIG, bad_videos="wrong"), self.questions(setting, tmp_path)
        good = [question for question in questions if question.id.startswith("q")]
        model = Painted(setting.processor)
        evaluate(model, setting.processor, good, config, tmp_path / "good")
        results = evaluate(model, setting.processor, questions, config, tmp_path / "all")
        assert (results["bad_questions"], results["bad_videos"], results["unparsed"]) == (3, 0, 0)
        assert (results["accuracy"], results["n"]) == (pytest.approx(7 / 13), 13)
        lines = {line["id"]: without_time(line) for line in read_lines(tmp_path / "all")}
        assert list(lines) == [question.id for question in questions]
        for line in read_lines(tmp_path / "good"):
            assert lines[line["id"]] == without_time(line)
        bad = lines["special"]
        assert (bad["predicted"], bad["correct"], bad["kept"]) == (None, False, None)
        assert bad["frames"] == lines["q0"]["frames"]
        assert "<|im_end|>" in bad["error"]
        before = (tmp_path / "all/predictions.jsonl").read_bytes()
        assert evaluate(model, setting.processor, questions, config, tmp_path / "all") == results
        assert (tmp_path / "all/predictions.jsonl").read_bytes() == before


def test_the_first_question_past_the_models_context_is_told(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    questions = questions_about(setting.videos)[:3]
    monkeypatch.setattr(setting.processor, "context_length", 10_000)
    evaluate(Painted(setting.processor), setting.processor, questions, CONFIG, tmp_path / "a")
    assert not caplog.text
    monkeypatch.setattr(setting.processor, "context_length", 20)
    evaluate(Painted(setting.processor), setting.processor, questions, CONFIG, tmp_path / "b")
    assert caplog.text.count("max_position_embeddings is 20") == 1
    assert caplog.text.count("question 'q") == 1


def test_records_name_videos_as_the_data_do(setting: Setting, tmp_path: Path) -> None:
    """Also those that an earlier start wrote with the whole path."""
    plain = questions_about(setting.videos)
    root = setting.videos[0].parent
    named = [replace(question, root=root, video=question.video.resolve()) for question in plain]
    model = Painted(setting.processor)
    evaluate(model, setting.processor, plain, replace(CONFIG, limit=4), tmp_path)
    assert {Path(line["video"]).is_absolute() for line in read_lines(tmp_path)} == {True}
    evaluate(model, setting.processor, named, CONFIG, tmp_path)
    assert [line["video"] for line in read_lines(tmp_path)] == [question.video.name for question in named]


def test_the_model_and_the_random_state_are_left_as_they_were(setting: Setting, tmp_path: Path) -> None:
    model = Painted(setting.processor, policy="random").train()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    evaluate(model, setting.processor, questions_about(setting.videos[:2]), CONFIG, tmp_path)
    assert model.training
    assert torch.equal(torch.rand(3), expected)


def test_logits_that_are_no_numbers_stop_the_run(setting: Setting, tmp_path: Path) -> None:
    class Overflowing(Painted):
        def forward(self, **inputs: Any) -> SimpleNamespace:
            output = super().forward(**inputs)
            output.logits[:, :, self.letters[2]] = float("nan")
            return output

    with pytest.raises(ValueError, match=r"question 'q\d' the logits \[.*nan.*model\.dtype=float32"):
        evaluate(
            Overflowing(setting.processor),
            setting.processor,
            questions_about(setting.videos),
            CONFIG,
            tmp_path,
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 0}, "frames is 0, must be at least 1"),
        ({"mode": "letters"}, "eval.mode is 'letters', must be logits or generate"),
        ({"batch_size": 0}, "eval.batch_size is 0"),
        ({"max_tokens": 0}, "eval.max_tokens is 0"),
        ({"workers": 0}, "eval.workers is 0"),
        ({"limit": 0}, "eval.limit is 0"),
        ({"max_new_tokens": 0}, "eval.max_new_tokens is 0"),
        ({"bad_videos": "skip"}, "eval.bad_videos is 'skip', must be stop or wrong"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)


def test_the_report_shows_every_number(setting: Setting, tmp_path: Path) -> None:
    questions = [
        replace(question, groups={"kind": ("still",) if i < 4 else ("still", "long")})
        for i, question in enumerate(questions_about(setting.videos))
    ]
    results = evaluate(Painted(setting.processor), setting.processor, questions, CONFIG, tmp_path)
    assert counts(results["by_group"]["kind"]["long"]) == (pytest.approx(4 / 6), 6, 0)
    console = Console(record=True, width=100, file=open(os.devnull, "w"))  # noqa: SIM115
    print_results(results, console)
    rows = [line.replace("│", " ").split() for line in console.export_text().splitlines()]
    low, high = (f"{100 * end:.1f}" for end in results["interval"])
    assert ["all", "70.0", "%", low, "-", high, "10", "0"] in rows
    rows = [row[:3] + row[6:] if "-" in row else row for row in rows]
    assert ["even", "60.0", "%", "5", "0"] in rows
    assert ["kind:", "long", "66.7", "%", "10", "0"] not in rows
    assert ["policy", "scorer,", "prune_ratio", "0.5,", "frames", "16;", "kept"] in [row[:7] for row in rows]


class TestScript:
    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("prune_ratio=1.4", "prune_ratio is 1.4, must be in [0, 1)"),
            ("prune_ration=0.4", "Could not override 'prune_ration'"),
            ("frames=0", "frames is 0, must be at least 1"),
            ("benchmark=videomme", "videomme/test-00000-of-00001.parquet"),
            ("checkpoint=nowhere", "checkpoint is 'nowhere'"),
        ],
    )
    def test_mistakes_are_told_at_once(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture,
        override: str,
        message: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["eval.py", override])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / "scripts/eval.py"), run_name="__main__")
        told = capsys.readouterr()
        assert stop.value.code == 2, told.err
        assert message in told.err + told.out
        assert "Traceback" not in told.err
        assert not (tmp_path / "outputs").exists(), "no clip, model or folder was made"

    def test_torch_is_not_loaded_before_the_checks(self, tmp_path: Path) -> None:
        (tmp_path / "torch.py").write_text("raise SystemExit('torch was loaded')")
        environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
        command = [sys.executable, str(ROOT / "scripts/eval.py"), "benchmark=videomme"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
        )
        assert "needs files that are not there" in done.stderr

    def test_help_explains_every_key(self) -> None:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            config = OmegaConf.to_container(compose("eval"))
        text = explain("eval")
        for key in ("prune_ratio", "policy", "frames", "checkpoint", "seed", "output_dir"):
            assert key in config
            assert f"\n  {key} " in text
        for group in ("video", "stts", "eval"):
            assert all(f"\n  {group}.{key} " in text for key in config[group])

    def main(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> None:
        """The script's main in this process, as launch calls it."""
        monkeypatch.chdir(folder)
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            config = OmegaConf.to_container(compose("eval", list(overrides)), resolve=True)
        module_spec = importlib.util.spec_from_file_location("eval_script", ROOT / "scripts/eval.py")
        module = importlib.util.module_from_spec(module_spec)
        module_spec.loader.exec_module(module)
        module.main(config)

    @pytest.mark.slow
    @pytest.mark.parametrize("mode", ["logits", "generate"])
    def test_the_tiny_model_on_generated_clips(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, mode: str
    ) -> None:
        clips = ["data.num_test=3", "data.num_train=1"]
        self.main(tmp_path, monkeypatch, *clips, f"eval.mode={mode}", "policy=temporal")
        (folder,) = (tmp_path / "outputs/eval/synthetic").iterdir()
        results = json.loads((folder / "results.json").read_text())
        lines = read_lines(folder)
        assert results["n"] == len(lines) == 12
        assert results["accuracy"] == pytest.approx(np.mean([line["correct"] for line in lines]))
        assert results["kept"] == pytest.approx(0.5)
        assert 0 <= results["evidence_recall"] <= 1
        assert sum(counts["n"] for counts in results["by_category"].values()) == 12
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert (config["policy"], config["data"]["num_test"]) == ("temporal", 3)
        assert "accuracy" in capsys.readouterr().out
        self.main(tmp_path, monkeypatch, *clips, f"eval.mode={mode}", "policy=temporal")
        assert read_lines(folder) == lines, "the same command again asks nothing"

    @pytest.mark.slow
    def test_killed_and_gone_on_with_by_two_processes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One process, killed -9 after its first predictions; two go on; a run that never stopped."""
        settings = ["data.num_test=10", "data.num_train=1", "policy=random", "eval.batch_size=2", "frames=12"]
        self.main(tmp_path, monkeypatch, *settings, "output_dir=whole")
        folder = tmp_path / "parts"
        command = [sys.executable, str(ROOT / "scripts/eval.py"), *settings, "output_dir=parts"]
        options = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        process = subprocess.Popen(command, **options)
        while process.poll() is None and not (folder / "predictions.jsonl").exists():
            time.sleep(0.005)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (folder / "results.json").exists()
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        both = subprocess.run([*launcher, *command[1:]], timeout=600, **options)
        assert both.returncode == 0, both.stdout
        assert both.stdout.count("2 processes") == both.stdout.count("written to parts") == 1, both.stdout
        assert (folder / "results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()
        assert without_time(read_lines(folder)) == without_time(read_lines(tmp_path / "whole"))
        assert not list(folder.glob("predictions-*"))

    @pytest.mark.slow
    def test_padding_changes_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        clips = ["data.num_test=2", "data.num_train=1", "prune_ratio=0.6", "policy=temporal"]
        self.main(tmp_path, monkeypatch, *clips, "output_dir=batched", "eval.batch_size=3")
        self.main(tmp_path, monkeypatch, *clips, "output_dir=alone", "eval.batch_size=1")
        batched, alone = read_lines(tmp_path / "batched"), read_lines(tmp_path / "alone")
        for one, other in zip(batched, alone, strict=True):
            assert one["logits"] == pytest.approx(other["logits"], abs=1e-3)
            assert one["evidence_recall"] == other["evidence_recall"]


@pytest.mark.slow
def test_logits_are_those_of_transformers_after_the_prompt(setting: Setting, tmp_path: Path) -> None:
    """Without pruning: transformers' own class, one question at a time, the logits after the last token."""
    plain = Molmo2ForConditionalGeneration.from_pretrained(setting.tiny).eval()
    model = STTSMolmo2ForConditionalGeneration.from_pretrained(setting.tiny, stts=STTSConfig(prune_ratio=0.0))
    questions = questions_about(setting.videos[:3])
    evaluate(model, setting.processor, questions, CONFIG, tmp_path)
    letters = setting.processor.tokenizer.convert_tokens_to_ids(list("ABCD"))
    for question, line in zip(questions, read_lines(tmp_path), strict=True):
        prompt = multiple_choice_prompt(question.question, question.options)
        messages = [{"role": "user", "content": prompt}]
        inputs = setting.processor(messages, read_video(question.video, 16), add_generation_prompt=True)
        text = {key: inputs[key][None] for key in ("input_ids", "mm_token_type_ids")}
        video = {key: inputs[key] for key in ("video_token_pooling", "video_grids")}
        pixels = inputs["pixel_values_videos"] / 127.5 - 1
        with torch.no_grad():
            logits = plain(**text, **video, pixel_values_videos=pixels).logits[0, -1]
        assert line["logits"] == pytest.approx(logits[letters].tolist(), abs=1e-3)


def test_a_file_is_no_folder_for_records(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(ValueError, match=r"output_dir is .*out, which is a file"):
        check_settings(tmp_path / "out", {})


def test_records_killed_at_any_file_operation_lose_nothing_they_had(tmp_path: Path) -> None:
    """kill -9 before each operation on a file; another process then goes on, twice."""
    questions = questions_about([Path(f"v{i}.mp4") for i in range(4)])

    def write(folder: Path, process: int) -> None:
        records = Records(folder, {"benchmark": "own"}, process)
        for first in (0, 3, 6):
            batch = questions[first : first + 3]
            records.append({"id": question.id, "predicted": "A"} for question in batch)
        if process == 0:
            records.merge(questions)

    write(tmp_path / "whole", 0)
    for process in (0, 1):
        statuses = []
        while not statuses or statuses[-1]:
            folder = tmp_path / f"{process}-{len(statuses)}"
            if process:  # the first one has been here before
                folder.mkdir()
                write_json(folder / "settings.json", {"benchmark": "own"})
            statuses.append(killed_at(len(statuses) + 1, folder, partial(write, folder, process)))
            assert statuses[-1] in (0, -signal.SIGKILL)
            write(folder, 0)
            for name in ("predictions.jsonl", "settings.json"):
                assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
            assert [path.name for path in folder.glob("predictions-*")] == []
        assert len(statuses) > (8 if process == 0 else 3), "it was killed somewhere at all"


class OneOf:
    """One of several processes, played by threads; `order` is who came to which meeting."""

    def __init__(self, rank: int, meeting: threading.Barrier) -> None:
        self.process_index, self.num_processes, self.meeting = rank, meeting.parties, meeting

    def wait_for_everyone(self) -> None:
        self.meeting.wait(60)


class TestProcesses:
    def ask(self, setting: Setting, folder: Path, processes: int, **changes: Any) -> list[Any]:
        """What each process returns or raises."""
        meeting = threading.Barrier(processes)
        models = [Painted(setting.processor) for _ in range(processes)]
        for model in models:
            model.stop_after = changes.get("stop_after")
        config = replace(CONFIG, batch_size=2)
        found: list[Any] = [None] * processes

        def run(rank: int) -> None:
            try:
                arguments = (models[rank], setting.processor, questions_about(setting.videos), config, folder)
                with torch.no_grad():  # which threads do not inherit
                    found[rank] = evaluate(*arguments, OneOf(rank, meeting))
            except BaseException as error:
                found[rank] = error
                meeting.abort()

        threads = [threading.Thread(target=run, args=(rank,)) for rank in range(processes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.asked = [sum(model.batches) for model in models]
        return found

    def test_any_number_finds_the_same(self, setting: Setting, tmp_path: Path) -> None:
        (alone,) = self.ask(setting, tmp_path / "1", 1)
        for processes, asked in ((2, [6, 4]), (3, [4, 4, 2]), (7, [2] * 5 + [0] * 2)):
            folder = tmp_path / str(processes)
            found = self.ask(setting, folder, processes)
            assert self.asked == asked, "of 5 videos with 2 questions each"
            assert all(without_time(one) == without_time(alone) for one in found)
            assert (folder / "results.json").read_bytes() == (tmp_path / "1/results.json").read_bytes()
            assert without_time(read_lines(folder)) == without_time(read_lines(tmp_path / "1"))
            assert sorted(path.name for path in folder.iterdir()) == sorted(
                path.name for path in (tmp_path / "1").iterdir()
            )

    def test_another_number_goes_on_with_what_a_stopped_run_left(
        self, setting: Setting, tmp_path: Path
    ) -> None:
        self.ask(setting, tmp_path / "whole", 1)
        found = self.ask(setting, tmp_path / "parts", 3, stop_after=1)
        assert any(isinstance(error, KeyboardInterrupt) for error in found)
        left = sum(len(path.read_text().splitlines()) for path in (tmp_path / "parts").glob("*.jsonl"))
        assert 2 <= left <= 6
        assert len(list((tmp_path / "parts").glob("predictions-*.jsonl"))) >= 1
        self.ask(setting, tmp_path / "parts", 2)
        assert sum(self.asked) == 10 - left
        assert (tmp_path / "parts/results.json").read_bytes() == (
            tmp_path / "whole/results.json"
        ).read_bytes()
