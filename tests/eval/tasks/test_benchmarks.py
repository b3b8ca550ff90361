"""The thirteen benchmarks over small copies of their files."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from transformers import Molmo2VisionModel

import stts.eval.reading as reading
from stts.data import QwenProcessor, VideoProcessor, read_video, write_video
from stts.data.video.config import VideoConfig
from stts.eval.config import EvalConfig
from stts.eval.plan import folder_of, one_by_one
from stts.eval.reading import read_clip, read_for_questions
from stts.eval.tasks import BenchmarkGroup, TableBenchmark, read_benchmark
from stts.eval.tasks.registry import edition_of, load_questions, what_is_missing
from stts.settings.launch import CONFIG_DIR
from tests.helpers.miniatures import MINIATURES, come_out, write_file, write_miniature
from tests.helpers.qwen_text import their_text
from tests.helpers.scripts import run_script

pytest.importorskip("pyarrow")

SHORT = ["nextqa", "perception_test", "mvbench", "tomato", "motionbench", "temp_compass", "egoschema"]
LONG = ["videomme", "videomme_subtitle", "longvideobench", "mlvu", "lvbench", "videoevalpro"]


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(path, [np.full((48, 64, 3), 10 * i, np.uint8) for i in range(12)], fps=8)
    return path


@pytest.fixture(scope="session")
def specs() -> dict[str, TableBenchmark]:
    """The settings of all benchmarks, by name, as benchmark=all composes them."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = OmegaConf.to_container(compose("eval", ["benchmark=all"]).benchmark, resolve=True)
    return dict(read_benchmark(config).members)


def small(spec: TableBenchmark, root: Path, more: dict[str, Any]) -> TableBenchmark:
    return dataclasses.replace(spec, data_root=str(root), num_questions=None, **more)


@pytest.mark.parametrize("name", MINIATURES)
def test_files_become_questions(
    name: str, specs: dict[str, TableBenchmark], tmp_path: Path, clip: Path
) -> None:
    miniature = write_miniature(name, tmp_path, clip)
    spec = small(specs[name], tmp_path, miniature.more)
    questions = load_questions(spec)
    assert come_out(questions) == miniature.expected(tmp_path)
    assert {question.prompt for question in questions} == {miniature.prompt}
    assert what_is_missing(spec) == ""
    assert f"to get them:\n  {spec.how_to_get.split()[0]}" in what_is_missing(specs[name])


@pytest.mark.parametrize("name", MINIATURES)
def test_how_to_get_the_files_can_be_pasted_into_a_shell(name: str, specs: dict[str, TableBenchmark]) -> None:
    text = what_is_missing(dataclasses.replace(specs[name], data_root="nowhere/data"))
    commands = text.split("to get them:\n")[1]
    assert "--local-dir nowhere/data" in commands or "git clone" in commands
    assert "{data_root}" not in commands
    done = subprocess.run(["bash", "-n"], input=commands, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", MINIATURES)
def test_prompts_of_qwen3_vl_are_those_of_transformers(
    name: str, specs: dict[str, TableBenchmark], tmp_path: Path, clip: Path, tiny_qwen3_vl_folder: Path
) -> None:
    miniature = write_miniature(name, tmp_path, clip)
    processor, config = QwenProcessor.from_pretrained(tiny_qwen3_vl_folder), EvalConfig(name, VideoConfig(5))
    for question in load_questions(small(specs[name], tmp_path, miniature.more)):
        shown = read_clip(question, config.video, processor.image_size)
        read = read_for_questions(processor, config, [question])
        fps = question.frame_fps or 8  # of the clip
        indices = np.round((shown.timestamps - shown.timestamps[0]) * fps).astype(int)
        said = [{"role": "user", "content": question.text(shown.timestamps)}]
        grid = read.tensors["video_grid_thw"]
        (prompt,) = read.prompts
        text = their_text(processor, said, grid, indices, fps, True)
        assert processor.tokenizer.decode(prompt["input_ids"]) == text
        assert (prompt["input_ids"] == processor.video_id).sum() == int(grid.prod()) // 4
        assert (read.frames, read.grid[0]) == (len(indices), -(-len(indices) // 2))


PUBLISHED = {
    "nextqa": 8564,
    "perception_test": 19140,
    "mvbench": 4000,
    "tomato": 1484,
    "motionbench": 4018,
    "temp_compass": 5536,
    "egoschema": 500,
    "videomme": 2700,
    "videomme_subtitle": 2700,
    "longvideobench": 1337,
    "mlvu": 2175,
    "lvbench": 1549,
    "videoevalpro": 1289,
}


@pytest.mark.parametrize("name", MINIATURES)
def test_another_number_than_published_is_refused(
    name: str, specs: dict[str, TableBenchmark], tmp_path: Path, clip: Path
) -> None:
    miniature = write_miniature(name, tmp_path, clip)
    spec = dataclasses.replace(small(specs[name], tmp_path, miniature.more), num_questions=PUBLISHED[name])
    assert specs[name].num_questions == PUBLISHED[name]
    found = len(miniature.questions) + spec.num_unanswerable // 2  # of MLVU's two, the miniature has one
    with pytest.raises(ValueError, match=f"has {found} questions, must have {PUBLISHED[name]} as published"):
        load_questions(spec)


NEEDED = {
    "nextqa": ["video", "qid", "question", "answer", "a0", "a4", "type"],
    "perception_test": ["video_name", "question_id", "options", "answer_id", "area", "reasoning", "tag"],
    "mvbench": ["video", "question", "candidates", "answer", "start", "end"],
    "tomato": ["question", "options", "answer", "key", "demonstration_type"],
    "motionbench": ["video_path", "question_type", "video_type", "qa"],
    "temp_compass": ["video_id", "question", "answer", "dim"],
    "egoschema": ["question_idx", "question", "video_idx", "option", "answer"],
    "videomme": ["videoID", "question_id", "question", "options", "answer", "duration", "domain"],
    "longvideobench": [
        *("id", "video_path", "candidates", "correct_choice", "duration_group", "level"),
        *("subtitle_path", "starting_timestamp_for_subtitles", "duration"),
    ],
    "mlvu": ["video", "question", "candidates", "answer"],
    "lvbench": ["key", "type", "qa"],
    "videoevalpro": ["video", "question", "options", "answer", "qa_type", "qa_subtype", "source"],
}


def first_row(rows: Any) -> dict[str, Any]:
    return rows[0] if isinstance(rows, list) else next(iter(rows.values()))


@pytest.mark.parametrize(("name", "column"), [(name, column) for name in NEEDED for column in NEEDED[name]])
def test_a_missing_column_is_named(
    name: str, column: str, specs: dict[str, TableBenchmark], tmp_path: Path, clip: Path
) -> None:
    miniature = write_miniature(name, tmp_path, clip)
    file, rows = next(iter(copy.deepcopy(miniature.files).items()))
    for row in rows if isinstance(rows, list) else rows.values():
        row.pop(column, None)
    write_file(tmp_path / file, rows)
    with pytest.raises(ValueError, match=rf"{tmp_path / file}: row 0 has no column '{column}', it has: "):
        load_questions(small(specs[name], tmp_path, miniature.more))


WRONG = [
    ("nextqa", {"answer": 5}, "row 0: answer '5' must be an index from 0 to 4"),
    ("nextqa", {"a3": None}, "a0, a1, a2, a3, a4 .* must be a list of texts"),
    ("perception_test", {"answer_id": "-1"}, "answer_id '-1' must be an index"),
    ("perception_test", {"answer_id": "right"}, "answer_id 'right' must be an index"),
    ("mvbench", {"answer": "stands"}, "answer 'stands' is none of the options"),
    ("mvbench", {"start": "early"}, "start is 'early', must be seconds"),
    ("mvbench", {"video": "../../x.mp4"}, r"row 0: video .*\.\."),
    ("tomato", {"options": "1, 2"}, "options '1, 2' must be a list of texts"),
    ("tomato", {"answer": None}, "answer 'None' must be an index"),
    ("tomato", {"question": " "}, "question 'count-0' is empty"),
    (
        "motionbench",
        {"qa": [{"uid": "u", "question": "How?", "answer": "A"}]},
        "question 'u': 'How.' must hold",
    ),
    (
        "motionbench",
        {"qa": [{"uid": "u", "question": "How?\nA. x\nC. y", "answer": "A"}]},
        "question 'u': option 'C' follows 'A'",
    ),
    (
        "motionbench",
        {"qa": [{"uid": "u", "question": "How?\nA. x\nB. y", "answer": "C"}]},
        "answer 'C' must be a letter from A to B",
    ),
    ("motionbench", {"qa": [{"uid": "u", "question": "How?"}]}, "has no column 'answer'"),
    ("motionbench", {"qa": None}, "row 0"),
    (
        "lvbench",
        {"qa": [{"uid": "u", "question": "How?\n(A) x\n(B) y", "answer": "A", "question_type": []}]},
        "question 'u' has 2 options, must have 4",
    ),
    ("temp_compass", {"answer": "D. sinking"}, "answer 'D. sinking' is none of the option lines"),
    ("temp_compass", {"answer": None}, "row 0"),
    ("egoschema", {"answer": None}, "answer 'None' must be an index from 0 to 4"),
    ("longvideobench", {"correct_choice": 4}, "correct_choice '4' must be an index from 0 to 3"),
    ("longvideobench", {"duration": "long"}, "duration is 'long', must be seconds"),
    ("videoevalpro", {"answer": "F"}, "answer 'F' must be a letter from A to E"),
    ("videoevalpro", {"options": ["A. one"], "answer": "A"}, "has 1 options"),
]


@pytest.mark.parametrize(("name", "change", "message"), WRONG)
def test_a_wrong_value_is_named(
    name: str,
    change: dict[str, Any],
    message: str,
    specs: dict[str, TableBenchmark],
    tmp_path: Path,
    clip: Path,
) -> None:
    miniature = write_miniature(name, tmp_path, clip)
    file, rows = next(iter(copy.deepcopy(miniature.files).items()))
    first_row(rows).update(change)
    write_file(tmp_path / file, rows)
    with pytest.raises(ValueError, match=message) as error:
        load_questions(small(specs[name], tmp_path, miniature.more))
    assert str(error.value).startswith(f"{tmp_path / file}: row 0")


def test_unanswerable_questions_are_left_out_and_named(
    specs: dict[str, TableBenchmark], tmp_path: Path, clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    miniature = write_miniature("mlvu", tmp_path, clip)
    spec = small(specs["mlvu"], tmp_path, {})
    with caplog.at_level(logging.WARNING):
        assert "needle-0" not in {question.id for question in load_questions(spec)}
    assert "2_needle.json: row 0: answer '7' is none of the options ['1', '3', '0', '3']" in caplog.text
    row = miniature.files["MLVU/json/2_needle.json"][0]
    write_file(tmp_path / "MLVU/json/2_needle.json", [row] * 3)
    with pytest.raises(ValueError, match=r"2_needle\.json: row 2: answer '7' is none of the options"):
        load_questions(spec)


def test_a_part_can_be_left_out(specs: dict[str, TableBenchmark], tmp_path: Path, clip: Path) -> None:
    write_miniature("mvbench", tmp_path, clip)
    (tmp_path / "json/fine_grained_pose.json").unlink()
    parts = dict(specs["mvbench"].parts)
    with pytest.raises(ValueError, match=r"fine_grained_pose\.json"):
        load_questions(small(specs["mvbench"], tmp_path, {}))
    parts.pop("fine_grained_pose")
    questions = load_questions(small(specs["mvbench"], tmp_path, {"parts": parts}))
    assert len(questions) == 19
    with pytest.raises(ValueError, match=r"a key of benchmark\.parts\.x\.fields is 'begin', must be 'id'"):
        TableBenchmark("own", parts={"x": {"fields": {"begin": "start"}}})
    with pytest.raises(ValueError, match=r"benchmark\.annotations is '{n}\.json', part 'x' has no 'n'"):
        load_questions(small(specs["mvbench"], tmp_path, {"annotations": "{n}.json", "parts": {"x": {}}}))


def test_groups_are_the_thirteen(specs: dict[str, TableBenchmark]) -> None:
    assert list(specs) == [*SHORT, *LONG] == list(MINIATURES)
    assert [specs[name].length for name in specs] == ["short"] * 7 + ["long"] * 6
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        for group, names in (("short", SHORT), ("long", LONG)):
            config = compose("eval", [f"benchmark={group}"]).benchmark
            assert (config.name, list(config.members)) == (group, names)
        alone = compose("eval", ["benchmark=videomme_subtitle"]).benchmark
        assert config.members.videomme_subtitle == alone
        assert alone.fields.video == compose("eval", ["benchmark=videomme"]).benchmark.fields.video
    with pytest.raises(ValueError, match="benchmark all is a group, choose one of nextqa, "):
        load_questions(BenchmarkGroup("all", dict.fromkeys(["nextqa", "tomato"], specs["nextqa"])))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"members": {"a": {"name": "a", "promt": "x"}}}, r"benchmark\.members\.a\.promt is not a setting"),
        ({"members": {"a": {"name": "a"}}, "prompt": "best"}, r"benchmark\.prompt is not a setting"),
        ({"task": "data", "data_root": "x"}, r"benchmark\.data_root is not a setting"),
        ({"data": {"name": "synthetic"}}, r"benchmark\.data is not a setting"),
    ],
)
def test_each_kind_of_benchmark_has_its_own_settings(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_benchmark({"name": "own", **values})


def test_everything_that_is_missing_is_listed(
    specs: dict[str, TableBenchmark], tmp_path: Path, clip: Path
) -> None:
    miniature = write_miniature("longvideobench", tmp_path, clip)
    spec = small(specs["longvideobench"], tmp_path, {})
    (tmp_path / "videos/vid_2.mp4").unlink()
    (tmp_path / "subtitles/vid_1_en.json").unlink()
    text = what_is_missing(spec)
    assert str(tmp_path / "videos/vid_2.mp4") in text
    assert f"the first is {tmp_path / 'subtitles/vid_1_en.json'}" in text
    assert "vid_1.mp4" not in text
    at = f"longvideobench/LongVideoBench --repo-type dataset --revision {spec.revision}"
    assert f"hf download {at} --local-dir {tmp_path}" in text
    for path in [*miniature.files, *miniature.videos()]:
        (tmp_path / path).unlink(missing_ok=True)
    assert str(tmp_path / "lvb_val.json") in what_is_missing(spec)


def test_folders_of_a_group() -> None:
    single = {"benchmark": {"name": "tomato"}, "output_dir": "out/{benchmark}/run", "frames": 4}
    assert one_by_one(single) == [single | {"output_dir": "out/tomato/run"}]
    members = {"tomato": {"name": "tomato", "data_root": "x"}, "mlvu": {"name": "mlvu"}}
    group = single | {"benchmark": {"name": "both", "members": members}}
    tomato, mlvu = one_by_one(group)
    assert tomato == {"benchmark": members["tomato"], "output_dir": "out/tomato/run", "frames": 4}
    assert (mlvu["benchmark"], mlvu["output_dir"]) == (members["mlvu"], "out/mlvu/run")
    plain = one_by_one(group | {"output_dir": "out"})
    assert [config["output_dir"] for config in plain] == ["out/tomato", "out/mlvu"]
    assert folder_of(group | {"output_dir": "out"}, "both") == "out"
    assert one_by_one(single | {"output_dir": "out"})[0]["output_dir"] == "out"


def test_numbers_belong_to_an_edition_of_the_files(
    specs: dict[str, TableBenchmark], tmp_path: Path, clip: Path
) -> None:
    miniature = write_miniature("longvideobench", tmp_path, clip)
    spec = small(specs["longvideobench"], tmp_path, {})
    before = edition_of(spec)
    assert (before["prompt"], before["subtitles"]) == ("direct", True)
    rows = copy.deepcopy(miniature.files["lvb_val.json"])
    rows[1]["correct_choice"] = 3
    write_file(tmp_path / "lvb_val.json", rows)
    assert {key for key, value in edition_of(spec).items() if value != before[key]} == {"annotations"}


def test_perception_test_can_stop_before_the_answer_shows(
    specs: dict[str, TableBenchmark], tmp_path: Path, clip: Path
) -> None:
    write_miniature("perception_test", tmp_path, clip)
    whole = small(specs["perception_test"], tmp_path, {})
    cut = dataclasses.replace(whole, fields=dataclasses.replace(whole.fields, end_frame="cut_frame"))
    assert f"{tmp_path / 'cut_frame_mapping_valid.json'}  (column cut_frame)" in what_is_missing(cut)
    assert what_is_missing(whole) == ""
    write_file(tmp_path / "cut_frame_mapping_valid.json", {"video_9": 5, "video_8": -1})
    shown_frames = VideoConfig(100, max_fps=8.0)
    shown = [len(read_clip(question, shown_frames, 12).frames) for question in load_questions(cut)]
    assert shown == [5, 12]
    assert [len(read_clip(question, shown_frames, 12).frames) for question in load_questions(whole)] == [
        12,
        12,
    ]
    assert edition_of(cut)["cut"] != edition_of(whole)["cut"]


def test_nextqa_finds_videos_in_the_folders_of_vidor(
    specs: dict[str, TableBenchmark], tmp_path: Path, clip: Path
) -> None:
    write_miniature("nextqa", tmp_path, clip)
    (tmp_path / "NExTVideo/0007").mkdir()
    (tmp_path / "NExTVideo/1234567890.mp4").rename(tmp_path / "NExTVideo/0007/1234567890.mp4")
    write_file(tmp_path / "map_vid_vidorID.json", {"1234567890": "0007/1234567890"})
    spec = small(specs["nextqa"], tmp_path, {})
    assert "1234567890.mp4" in what_is_missing(spec)
    fields = dataclasses.replace(spec.fields, video="NExTVideo/{vidor}.mp4")
    assert what_is_missing(dataclasses.replace(spec, fields=fields)) == ""


class TestSubtitles:
    def test_video_mme_shows_what_is_said_around_the_frames(
        self, specs: dict[str, TableBenchmark], tmp_path: Path, clip: Path
    ) -> None:
        miniature = write_miniature("videomme_subtitle", tmp_path, clip)
        spec = small(specs["videomme_subtitle"], tmp_path, miniature.more)
        said, silent = load_questions(spec)
        times = read_video(clip, 64).timestamps
        assert max(times) < 1.5
        assert said.text(times).startswith("Subtitles:\n0.0 - 0.4 Look at the table.\nSelect the best answer")
        assert silent.text(times).startswith("Select the best answer")
        with pytest.raises(ValueError, match="1 of 2 questions have no subtitle file, must be 468") as error:
            load_questions(dataclasses.replace(spec, num_without_subtitles=468))
        assert "/subtitle.zip -d " in str(error.value)

    def test_long_video_bench_has_two_layouts(
        self, specs: dict[str, TableBenchmark], tmp_path: Path, clip: Path
    ) -> None:
        write_miniature("longvideobench", tmp_path, clip)
        spec = small(specs["longvideobench"], tmp_path, {})
        clocks, seconds = (question.text([0.0]) for question in load_questions(spec))
        assert clocks.startswith("Subtitles:\n0.0 - 0.2 hello\nWhen the subtitle says")
        assert seconds.startswith("Subtitles:\n0.0 - 1.0 hello\nWhen the subtitle says")
        without = dataclasses.replace(spec.fields, subtitles="")
        for question in load_questions(dataclasses.replace(spec, fields=without)):
            assert question.text([0.0]).startswith("When the subtitle says")

    def test_broken_ones_are_named_before_anything_is_asked(
        self, specs: dict[str, TableBenchmark], tmp_path: Path, clip: Path
    ) -> None:
        write_miniature("longvideobench", tmp_path, clip)
        path = write_file(tmp_path / "subtitles/vid_2_en.json", [{"text": "no time"}])
        spec = small(specs["longvideobench"], tmp_path, {})
        with pytest.raises(ValueError, match=f"{path}: cannot be read as subtitles: cue 0"):
            load_questions(spec)
        assert str(path) in what_is_missing(spec)


def count_calls(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, calls: Counter) -> None:
    real = getattr(owner, name)

    def counted(*args: Any, **options: Any) -> Any:
        calls[name] += 1
        return real(*args, **options)

    monkeypatch.setattr(owner, name, counted)


def overrides_for(name: str, where: str, root: Path, more: dict[str, Any]) -> list[str]:
    settings = {"data_root": root / name, "num_questions": "null", **more}
    return [f"{where}.{key}={value}" for key, value in settings.items()]


class TestScript:
    def test_check_lists_and_says_with_its_status(
        self, tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ) -> None:
        more = write_miniature("tomato", tmp_path / "tomato", clip).more
        single = ["benchmark=tomato", "check=true", *overrides_for("tomato", "benchmark", tmp_path, more)]
        assert run_script(monkeypatch, tmp_path, "eval", *single) == 0
        assert capsys.readouterr().out == "benchmark tomato: nothing is missing\n"
        (tmp_path / "tomato/videos/human/9001-02.mp4").unlink()
        assert run_script(monkeypatch, tmp_path, "eval", *single) == 2
        text = capsys.readouterr().out
        assert "videos/human/9001-02.mp4" in text
        assert "git clone https://github.com/yale-nlp/TOMATO" in text
        member = overrides_for("tomato", "benchmark.members.tomato", tmp_path, more)
        assert run_script(monkeypatch, tmp_path, "eval", "benchmark=short", "check=true", *member) == 2
        text = capsys.readouterr().out
        assert all(f"benchmark {name} needs files that are not there" in text for name in SHORT)
        assert "data/nextqa/MC/test-00000-of-00001.parquet" in text
        assert run_script(monkeypatch, tmp_path, "eval", "benchmark=synthetic", "check=true") == 0
        assert capsys.readouterr().out == "benchmark synthetic: nothing is missing\n"
        assert not (tmp_path / "outputs").exists(), "no model was made, nor a clip"

    def check_results(self, place: Path) -> dict[str, float]:
        """Every benchmark has a folder with results about all of its questions. Returns their accuracies."""
        folders = {name: place / "outputs/eval" / name / "tiny-temporal-0.5-f4" for name in MINIATURES}
        results = {name: json.loads((folders[name] / "results.json").read_text()) for name in folders}
        for name in MINIATURES:
            assert results[name]["n"] == len(MINIATURES[name]().questions)
            assert results[name]["settings"]["prompt"] == MINIATURES[name]().prompt
            config = yaml.safe_load((folders[name] / "config.yaml").read_text())
            assert (config["benchmark"]["name"], config["output_dir"]) == (
                name,
                str(folders[name].relative_to(place)),
            )
        return {name: results[name]["accuracy"] for name in results}

    def check_means(self, place: Path, accuracy: dict[str, float], said: str) -> None:
        whole = json.loads((place / "outputs/eval/all/tiny-temporal-0.5-f4/results.json").read_text())
        assert whole["accuracy"] == accuracy
        assert whole["means"] == {
            "short mean": pytest.approx(np.mean([accuracy[name] for name in SHORT])),
            "long mean": pytest.approx(np.mean([accuracy[name] for name in LONG])),
            "mean of 13": pytest.approx(np.mean(list(accuracy.values()))),
        }
        lines = [line.replace("│", " ").split() for line in said.splitlines()]
        mean = f"{100 * whole['means']['mean of 13']:.1f}"
        assert ["mean", "of", "13", mean, "%"] in lines

    @pytest.mark.slow
    def test_all_thirteen_with_the_tiny_model(
        self, tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ) -> None:
        overrides = ["benchmark=all", "policy=temporal", "frames=4", "eval.batch_size=8"]
        for name in MINIATURES:
            more = write_miniature(name, tmp_path / name, clip).more
            overrides += overrides_for(name, f"benchmark.members.{name}", tmp_path, more)
        prompts = []
        asked = VideoProcessor.prompt_tensors
        monkeypatch.setattr(
            VideoProcessor,
            "prompt_tensors",
            lambda self, messages, *rest, **options: (
                prompts.append(messages[0]["content"]) or asked(self, messages, *rest, **options)
            ),
        )
        calls = Counter()
        for owner, name in ((reading, "read_video"), (Molmo2VisionModel, "forward")):
            count_calls(monkeypatch, owner, name, calls)
        assert run_script(monkeypatch, tmp_path, "eval", *overrides) == 0
        clips = {
            (name, question["video"], question.get("start"), question.get("end"))
            for name in MINIATURES
            for question in MINIATURES[name]().questions
        }
        assert len(clips) < sum(len(MINIATURES[name]().questions) for name in MINIATURES)
        assert calls["read_video"] == calls["forward"] == len(clips)
        accuracy = self.check_results(tmp_path)
        assert sum(prompt.startswith("Subtitles:\n") for prompt in prompts) == 3
        assert sum("The best answer is:" in prompt for prompt in prompts) == 4
        self.check_means(tmp_path, accuracy, capsys.readouterr().out)
        prompts.clear()
        alone = ["benchmark=lvbench", *overrides[1:4], *overrides_for("lvbench", "benchmark", tmp_path, {})]
        assert run_script(monkeypatch, tmp_path, "eval", *alone) == 0
        assert prompts == [], "asked alone it goes on in the same folder"
