from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import stts.data.prefetch as prefetching
import stts.eval.reading as reading
from stts.data import VideoError, write_video
from stts.eval.masks import unpack_mask
from stts.eval.runner import evaluate
from stts.eval.tasks import Question
from stts.eval.tasks.subtitles import Subtitles
from tests.helpers.painted_letters import (
    CONFIG,
    GREYS,
    OneOf,
    Painted,
    Setting,
    questions_about,
    read_lines,
    without_time,
)


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
    real = reading.read_video
    monkeypatch.setattr(
        reading, "read_video", lambda path, *args, **kwargs: read.append(path) or real(path, *args, **kwargs)
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

    def test_random_draws_belong_to_the_video(self, setting: Setting, tmp_path: Path) -> None:
        questions = questions_about(setting.videos)
        models = [Painted(setting.processor, policy="random") for _ in range(3)]
        self.ask(setting, tmp_path / "a", models[0])
        self.ask(setting, tmp_path / "b", models[1], questions=questions[::-1], batch_size=7)
        self.ask(setting, tmp_path / "c", models[2], seed=1)
        assert sorted(models[0].keeps) == [3, 4, 5, 6, 7]
        assert models[0].keeps == models[1].keeps
        assert all(models[0].keeps[frames] != models[2].keeps[frames] for frames in (5, 6, 7))


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


def test_the_model_and_the_random_state_are_left_as_they_were(setting: Setting, tmp_path: Path) -> None:
    model = Painted(setting.processor, policy="random").train()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    evaluate(model, setting.processor, questions_about(setting.videos[:2]), CONFIG, tmp_path)
    assert model.training
    assert torch.equal(torch.rand(3), expected)


def test_what_was_kept_is_recorded_when_asked(setting: Setting, tmp_path: Path) -> None:
    questions, model = questions_about(setting.videos), Painted(setting.processor)
    plain = evaluate(model, setting.processor, questions, CONFIG, tmp_path / "plain")
    config = replace(CONFIG, masks=True)
    masked = evaluate(model, setting.processor, questions, config, tmp_path / "masked")
    assert without_time(masked) == without_time(plain)
    for line in read_lines(tmp_path / "masked"):
        keep = unpack_mask(line.pop("mask"))
        assert keep.shape == (line["frames"], 3, 3)
        assert keep.flatten().tolist() == model.keeps[line["frames"]]
        assert without_time(line) in map(without_time, read_lines(tmp_path / "plain"))
    again = evaluate(model, setting.processor, questions, config, tmp_path / "plain")
    assert again == plain, "a run without masks is none with other settings"


def test_a_stopped_run_ends_although_a_video_hangs(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang, real = threading.Event(), reading.read_video

    def read(path: Path, *args: Any, **options: Any) -> Any:
        if path == setting.videos[2]:
            hang.wait()
        return real(path, *args, **options)

    monkeypatch.setattr(reading, "read_video", read)
    monkeypatch.setattr(prefetching, "PATIENCE", 0.05)
    model = Painted(setting.processor)
    model.stop_after = 0
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, setting.processor, questions_about(setting.videos), CONFIG, tmp_path)
    hang.set()
