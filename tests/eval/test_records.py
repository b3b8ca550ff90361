from __future__ import annotations

import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from stts.data.video.config import VideoConfig
from stts.eval.records import Records, refuse_other_settings, write_json
from stts.eval.runner import evaluate
from tests.helpers.kills import killed_at
from tests.helpers.painted_letters import (
    CONFIG,
    Painted,
    Setting,
    questions_about,
    read_lines,
    without_time,
)


class TestRecordsOfARun:
    def ask(
        self, setting: Setting, folder: Path, model: Painted | None = None, **changes: Any
    ) -> dict[str, Any]:
        model = model or Painted(setting.processor)
        questions = changes.pop("questions", None) or questions_about(setting.videos)
        return evaluate(model, setting.processor, questions, replace(CONFIG, **changes), folder)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"video": VideoConfig(8)}, "frames is 16 there and 8 now"),
            ({"mode": "generate"}, "mode is 'logits' there and 'generate' now"),
            ({"video": VideoConfig(16, max_fps=1.0)}, "max_fps is 2.0 there and 1.0 now"),
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
            self.ask(setting, tmp_path / "parts", video=VideoConfig(8))

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


def test_a_file_is_no_folder_for_records(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(ValueError, match=r"output_dir is .*out, which is a file"):
        refuse_other_settings(tmp_path / "out", {})


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
