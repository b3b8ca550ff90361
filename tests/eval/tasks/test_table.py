from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
from huggingface_hub._local_folder import write_download_metadata
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from stts.eval.records import Records, refuse_other_settings
from stts.eval.tasks import (
    Benchmark,
    BenchmarkGroup,
    DataBenchmark,
    Fields,
    Question,
    TableBenchmark,
    read_benchmark,
)
from stts.eval.tasks.registry import LOADERS, edition_of, load_questions, what_is_missing
from stts.eval.tasks.table import missing_files
from stts.settings.launch import CONFIG_DIR
from tests.helpers.miniatures import MINIATURES

VIDEOMME_ROW = {
    "video_id": "001",
    "duration": "short",
    "domain": "Knowledge",
    "sub_category": "Astronomy",
    "url": "https://example.org/v",
    "videoID": "abcDEF12345",
    "question_id": "001-1",
    "task_type": "Object Recognition",
    "question": "Which instrument is on the table?\n",
    "options": ["A. Sextant.", "B. Telescope.", "C. Compass.", "D. A. Globe."],
    "answer": "B",
}


def benchmark(name: str) -> Benchmark | BenchmarkGroup:
    """The settings of configs/benchmark/<name>.yaml, as the script gets them."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("eval", [f"benchmark={name}"])
    return read_benchmark(OmegaConf.to_container(config.benchmark, resolve=True))


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        import pyarrow

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize(
    "path", sorted((CONFIG_DIR / "benchmark").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_benchmark_composes(path: Path) -> None:
    spec = benchmark(path.stem)
    assert spec.name == path.stem
    members = spec.members.values() if isinstance(spec, BenchmarkGroup) else [spec]
    assert all(member.task in LOADERS for member in members)


class TestVideoMME:
    """The benchmark's YAML over an invented copy of its files."""

    @pytest.fixture
    def spec(self, tmp_path: Path) -> TableBenchmark:
        return dataclasses.replace(benchmark("videomme"), data_root=str(tmp_path), num_questions=None)

    def annotate(self, spec: TableBenchmark, *changes: dict[str, Any]) -> None:
        write_rows(Path(spec.data_root, spec.annotations[0]), [VIDEOMME_ROW | change for change in changes])

    def test_rows_become_questions(self, spec: TableBenchmark, tmp_path: Path) -> None:
        self.annotate(
            spec, {}, {"videoID": "other", "question_id": "002-1", "answer": "D", "duration": "long"}
        )
        first, second = touch(tmp_path / "data/abcDEF12345.mp4"), touch(tmp_path / "data/other.mkv")
        questions = load_questions(spec)
        groups = {"task_type": "Object Recognition", "domain": "Knowledge", "sub_category": "Astronomy"}
        assert questions[0] == Question(
            id="001-1",
            video=first.resolve(),
            question="Which instrument is on the table?",
            options=("Sextant.", "Telescope.", "Compass.", "A. Globe."),
            answer=1,
            category="short",
            groups={kind: (label,) for kind, label in groups.items()},
            prompt="mme",
        )
        assert (questions[1].video, questions[1].answer, questions[1].category) == (
            second.resolve(),
            3,
            "long",
        )

    def test_nothing_there_says_what_where_and_how(self, spec: TableBenchmark) -> None:
        with pytest.raises(ValueError, match="needs files that are not there") as error:
            load_questions(spec)
        text = str(error.value)
        assert str(Path(spec.data_root, "videomme/test-00000-of-00001.parquet")) in text
        assert str(Path(spec.data_root, "data/{videoID}.mp4")) in text
        at = f"lmms-eval/Video-MME --repo-type dataset --revision {spec.revision}"
        assert f"hf download {at} --local-dir {spec.data_root}" in text
        assert "benchmark.data_root=" in text

    def test_missing_videos_are_named(self, spec: TableBenchmark, tmp_path: Path) -> None:
        names = [f"video{i}" for i in range(8)]
        self.annotate(spec, *({"videoID": name, "question_id": name} for name in names))
        touch(tmp_path / "data/video0.mp4")
        with pytest.raises(ValueError, match="and 2 more of 8 videos") as error:
            load_questions(spec)
        assert str(tmp_path / "data/video1.mp4") in str(error.value)
        assert "video0" not in str(error.value)
        assert len(load_questions(spec, limit=1)) == 1, "only the videos that are needed are asked for"
        assert len(load_questions(spec, allow_missing=True)) == 8
        (tmp_path / "data/video0.mp4").unlink()
        with pytest.raises(ValueError, match="and 3 more of 8 videos"):
            load_questions(spec, allow_missing=True)

    def test_another_number_of_rows_is_refused(self, spec: TableBenchmark) -> None:
        self.annotate(spec, {}, {"question_id": "2"})
        with pytest.raises(
            ValueError, match=r"has 2 questions, must have 2700 .*benchmark\.num_questions=null"
        ):
            load_questions(dataclasses.replace(spec, num_questions=2700))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"answer": "E"}, "row 1: answer 'E' must be a letter from A to D"),
            ({"answer": None}, "row 1: answer 'None' must be a letter"),
            ({"options": None}, "row 1"),
            ({"options": [], "answer": "A"}, "row 1: options is empty, must be a list of at least 2 texts"),
            (
                {"options": ["A. x", "B. "], "answer": "A"},
                "row 1: question '2' has options .*, one is empty",
            ),
            ({"options": ["A. only"], "answer": "A"}, "row 1: question '2' has 1 options"),
            ({"videoID": "../../../etc/passwd"}, r"row 1: .*\.\."),
            ({"question_id": "1"}, "two questions have the id '1'"),
        ],
    )
    def test_broken_rows_are_named(self, spec: TableBenchmark, change: dict[str, Any], message: str) -> None:
        self.annotate(spec, {"question_id": "1"}, {"question_id": "2"} | change)
        with pytest.raises(ValueError, match=message):
            load_questions(spec)

    def test_a_missing_column_is_named(self, spec: TableBenchmark) -> None:
        rows = [{key: value for key, value in VIDEOMME_ROW.items() if key != "task_type"}]
        path = write_rows(Path(spec.data_root, spec.annotations[0]), rows)
        with pytest.raises(ValueError, match=f"{path}: row 0 has no column 'task_type', it has: .*duration"):
            load_questions(spec)

    def test_a_file_that_is_no_parquet_is_named(self, spec: TableBenchmark) -> None:
        pytest.importorskip("pyarrow")
        path = Path(spec.data_root, spec.annotations[0])
        touch(path).write_bytes(b"<html>not found</html>")
        with pytest.raises(ValueError, match=f"{path} is not a parquet file"):
            load_questions(spec)

    def test_without_pyarrow_the_error_says_how_to_get_it(
        self, spec: TableBenchmark, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        touch(Path(spec.data_root, spec.annotations[0]))
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(ValueError, match=r"needs pyarrow.*pip install"):
            load_questions(spec)


class TestTable:
    """Other layouts than Video-MME's, as the YAML of other benchmarks will describe them."""

    def questions(
        self, tmp_path: Path, rows: list[dict[str, Any]], suffix: str = "json", **fields: Any
    ) -> list[Question]:
        write_rows(tmp_path / f"rows.{suffix}", rows)
        touch(tmp_path / "v.mp4")
        fields = {"video": "v.mp4"} | fields
        return load_questions(
            TableBenchmark("own", "table", str(tmp_path), f"rows.{suffix}", fields=Fields(**fields))
        )

    @pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet"])
    def test_every_format_reads_the_same(self, tmp_path: Path, suffix: str) -> None:
        rows = [{"question": "Q?", "options": ["x", "y"], "answer": "B"}]
        (question,) = self.questions(tmp_path, rows, suffix)
        assert (question.id, question.options, question.answer) == ("0", ("x", "y"), 1)

    def test_one_column_an_option_and_an_index(self, tmp_path: Path) -> None:
        row = {
            "video": 12,
            "qid": 4,
            "question": "why",
            "a0": "rest",
            "a1": " hide ",
            "a2": "wet",
            "answer": "2",
        }
        fields = {"id": "{video}-{qid}", "options": ("a0", "a1", "a2"), "answer_kind": "index"}
        (question,) = self.questions(tmp_path, [row], **fields)
        assert (question.id, question.options, question.answer) == ("12-4", ("rest", "hide", "wet"), 2)

    def test_the_text_of_an_option_and_its_first_place(self, tmp_path: Path) -> None:
        row = {"question": "Q?", "options": ["3", "5", "5"], "answer": "5"}
        (question,) = self.questions(tmp_path, [row], answer_kind="text")
        assert question.answer == 1
        with pytest.raises(ValueError, match="answer '4' is none of the options"):
            self.questions(tmp_path, [row | {"answer": "4"}], answer_kind="text")

    def test_several_labels_and_bounds(self, tmp_path: Path) -> None:
        row = {
            "question": "Q?",
            "options": ["x", "y"],
            "answer": "A",
            "types": ["a", "b"],
            "from": 3,
            "to": 11.5,
        }
        (question,) = self.questions(tmp_path, [row], groups={"type": "types"}, start="from", end="to")
        assert (question.groups, question.start, question.end) == ({"type": ("a", "b")}, 3.0, 11.5)

    @pytest.mark.parametrize(
        ("options", "kept"),
        [
            (["(A) one", "(B) two"], ("one", "two")),
            (["A: one", "B) two"], ("one", "two")),
            (["A. Lincoln", "G. Washington"], ("A. Lincoln", "G. Washington")),
            (["B. one", "A. two"], ("B. one", "A. two")),
            (["A. one", "two"], ("A. one", "two")),
        ],
    )
    def test_letters_go_only_where_every_option_has_its_own(
        self, tmp_path: Path, options: list[str], kept: tuple[str, ...]
    ) -> None:
        (question,) = self.questions(tmp_path, [{"question": "Q?", "options": options, "answer": "A"}])
        assert question.options == kept

    @pytest.mark.parametrize("text", ["{}", "[1, 2]", "[{"])
    def test_json_of_another_form_is_refused(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "rows.json").write_text(text)
        with pytest.raises(ValueError, match=r"rows\.json"):
            load_questions(
                TableBenchmark("own", "table", str(tmp_path), "rows.json", fields=Fields(video="v.mp4"))
            )

    def test_settings_that_are_missing_or_unknown(self) -> None:
        with pytest.raises(ValueError, match=r"benchmark\.annotations is not set"):
            load_questions(TableBenchmark("own", fields=Fields(video="v.mp4")))
        with pytest.raises(ValueError, match=r"benchmark\.fields\.video is not set"):
            load_questions(TableBenchmark("own", annotations="rows.json"))
        with pytest.raises(ValueError, match=r"benchmark\.task is 'tabel', must be one of data, table"):
            load_questions(TableBenchmark("own", "tabel"))
        with pytest.raises(ValueError, match=r"benchmark\.fields\.answer_kind is 'number'"):
            Fields(answer_kind="number")
        with pytest.raises(ValueError, match=r"benchmark\.fields\.vidoe .*benchmark\.fields\.video"):
            read_benchmark({"name": "own", "fields": {"vidoe": "v.mp4"}})


class TestData:
    """A JSONL file of one's own; the generated clips take the same way."""

    ROW: ClassVar = {
        "id": 7,
        "video": "clips/a.mp4",
        "question": "Q?",
        "options": ["x", "y"],
        "answer": "y",
        "category": "c",
    }

    def spec(self, tmp_path: Path, **settings: Any) -> DataBenchmark:
        write_rows(tmp_path / "train.jsonl", [self.ROW])
        data = {"name": "jsonl", "annotations": str(tmp_path / "train.jsonl")} | settings
        return DataBenchmark("own", data=data)

    def test_test_rows_become_questions(self, tmp_path: Path) -> None:
        evidence = {"start": 1.0, "end": 2.0, "box": [0, 0, 0.5, 0.5]}
        path = write_rows(tmp_path / "test.jsonl", [self.ROW | {"evidence": [evidence], "start": 0.5}])
        video = touch(tmp_path / "clips/a.mp4").resolve()
        expected = Question("7", video, "Q?", ("x", "y"), 1, "c", start=0.5, evidence=(evidence,))
        assert load_questions(self.spec(tmp_path, test_annotations=str(path))) == [expected]

    def test_rows_that_are_no_test_questions_are_named(self, tmp_path: Path) -> None:
        spec = self.spec(tmp_path, test_annotations=str(tmp_path / "test.jsonl"))
        write_rows(tmp_path / "test.jsonl", [{key: self.ROW[key] for key in ("id", "video", "question")}])
        with pytest.raises(ValueError, match=r"test\.jsonl: 7 has no 'options'"):
            load_questions(spec)
        for change, message in (
            ({"options": "xy"}, "options is 'xy', must be a list"),
            ({"question": "Q \ud83d?"}, "question is .*half of a character"),
            ({"options": ["1", "2"], "answer": 1}, "answer is the number 1"),
            ({"images": ["a.png"]}, "images is"),
        ):
            write_rows(tmp_path / "test.jsonl", [self.ROW | change])
            with pytest.raises(ValueError, match=rf"test\.jsonl: 7: {message}"):
                load_questions(spec)
        write_rows(tmp_path / "test.jsonl", [self.ROW | {"answer": "z"}])
        with pytest.raises(ValueError, match=r"test\.jsonl: 7: answer is 'z'"):
            load_questions(spec)

    def test_without_a_test_file(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"data\.test_annotations is not set"):
            load_questions(self.spec(tmp_path))


class TestLookup:
    """Columns that stand in another file."""

    @pytest.fixture
    def spec(self, tmp_path: Path) -> TableBenchmark:
        row = {"video": "v", "question": "Q?", "options": ["x", "y"], "answer": "A"}
        write_rows(tmp_path / "rows.jsonl", [row, row | {"video": "w"}, row | {"video": "u"}])
        write_rows(tmp_path / "cuts.json", {"v": 30, "w": -1})
        for name in ("v", "w", "u", "0007/v"):
            touch(tmp_path / f"{name}.mp4")
        cut = {"cut": {"file": "cuts.json", "key": "{video}"}}
        fields = Fields(video="{video}.mp4", end_frame="cut")
        return TableBenchmark("own", "table", str(tmp_path), "rows.jsonl", fields=fields, lookup=cut)

    def test_a_frame_to_stop_before(self, spec: TableBenchmark) -> None:
        assert [question.end_frame for question in load_questions(spec)] == [30, None, None]
        assert edition_of(spec)["cut"]
        before = edition_of(spec)
        write_rows(Path(spec.data_root, "cuts.json"), {"v": 31})
        assert edition_of(spec)["annotations"] != before["annotations"]

    def test_a_file_that_no_field_is_about_is_not_needed(self, spec: TableBenchmark) -> None:
        Path(spec.data_root, "cuts.json").unlink()
        with pytest.raises(ValueError, match=r"cuts\.json  \(column cut\)"):
            load_questions(spec)
        without = dataclasses.replace(spec, fields=Fields(video="{video}.mp4"))
        assert [question.end_frame for question in load_questions(without)] == [None] * 3
        assert not edition_of(without)["cut"]

    def test_a_part_of_a_path(self, spec: TableBenchmark) -> None:
        write_rows(Path(spec.data_root, "folders.json"), {"v": "0007/v", "w": "w", "u": "u"})
        lookup = {"place": {"file": "folders.json", "key": "{video}"}}
        moved = dataclasses.replace(spec, fields=Fields(video="{place}.mp4"), lookup=lookup)
        assert load_questions(moved)[0].video == Path(spec.data_root, "0007/v.mp4").resolve()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", r"cuts\.json is not valid JSON"),
            ("[1]", r"cuts\.json must hold a JSON object"),
            ('{"v": "30"}', r"rows\.jsonl: row 0: cut is '30', must be the number of a frame"),
            ('{"v": 30.5}', "cut is 30.5, must be the number of a frame"),
        ],
    )
    def test_broken_files_are_named(self, spec: TableBenchmark, content: str, message: str) -> None:
        Path(spec.data_root, "cuts.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            load_questions(spec)

    def test_settings_that_make_no_sense(self) -> None:
        with pytest.raises(
            ValueError, match=r"benchmark\.lookup\.cut has \['file'\], must have file and key"
        ):
            TableBenchmark("own", lookup={"cut": {"file": "x.json"}})

    def test_perception_test_and_nextqa_know_theirs(self, tmp_path: Path) -> None:
        spec = dataclasses.replace(benchmark("perception_test"), data_root=str(tmp_path))
        assert not spec.fields.names("cut_frame")
        cut = dataclasses.replace(spec.fields, end_frame="cut_frame")
        assert cut.names("cut_frame")
        spec = benchmark("nextqa")
        assert not spec.fields.names("vidor")
        assert dataclasses.replace(spec.fields, video="NExTVideo/{vidor}.mp4").names("vidor")


class TestHub:
    """Annotations from the Hugging Face Hub, with a Hub that is a folder."""

    COMMIT, OTHER = "0123456789abcdef0123456789abcdef01234567", "f" * 40

    @pytest.fixture
    def spec(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TableBenchmark:
        self.asked: list[dict[str, Any]] = []

        def download(repo: str, name: str, **options: Any) -> str:
            self.asked.append({"repo": repo, "name": name, **options})
            if "gone" in repo:
                raise OSError("no such repository\nmore about it")
            path = self.write(options["local_dir"], name)
            write_download_metadata(options["local_dir"], name, options["revision"], "etag")
            return str(path)

        monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
        touch(tmp_path / "v.mp4")
        fields = Fields(video="v.mp4")
        return TableBenchmark("own", "table", str(tmp_path), "a/rows.jsonl", repo="me/own", fields=fields)

    @staticmethod
    def write(root: Path, name: str) -> Path:
        return write_rows(Path(root, name), [{"question": "Q?", "options": ["x", "y"], "answer": "A"}])

    def test_a_pinned_commit_is_fetched_once(self, spec: TableBenchmark) -> None:
        pinned = dataclasses.replace(spec, revision=self.COMMIT)
        assert len(load_questions(pinned)) == len(load_questions(pinned)) == 1
        expected = {"repo": "me/own", "name": "a/rows.jsonl", "repo_type": "dataset", "revision": self.COMMIT}
        assert self.asked == [expected | {"local_dir": Path(spec.data_root)}]
        assert (edition_of(pinned)["repo"], edition_of(pinned)["revision"]) == ("me/own", self.COMMIT)

    def test_without_a_commit_nothing_is(self, spec: TableBenchmark) -> None:
        spec = dataclasses.replace(spec, how_to_get="hf download {at} --local-dir {data_root}")
        with pytest.raises(ValueError, match="needs files that are not there") as error:
            load_questions(spec)
        assert f"hf download me/own --repo-type dataset --local-dir {spec.data_root}" in str(error.value)
        pinned = dataclasses.replace(spec, revision=self.COMMIT)
        assert f"hf download me/own --repo-type dataset --revision {self.COMMIT} " in what_is_missing(pinned)
        assert self.asked == [], "nor to say what is missing"

    def test_what_the_hub_does_not_give_is_named(self, spec: TableBenchmark) -> None:
        gone = dataclasses.replace(spec, repo="me/gone", revision=self.COMMIT)
        message = f"a/rows.jsonl cannot be fetched from me/gone at {self.COMMIT}: no such repository\n"
        with pytest.raises(ValueError, match=f"{message}benchmark own needs files") as error:
            load_questions(gone)
        assert f"{spec.data_root}/v.mp4  (videos)" in str(error.value)

    def test_results_name_the_commit_that_files_really_are_of(self, spec: TableBenchmark) -> None:
        """Of files that were there before, as `hf download` notes it beside them; None where nothing does."""
        path = self.write(Path(spec.data_root), "a/rows.jsonl")
        pinned = dataclasses.replace(spec, revision=self.COMMIT)
        assert edition_of(pinned)["revision"] is None, "put there by hand: nobody knows"
        write_download_metadata(Path(spec.data_root), "a/rows.jsonl", self.OTHER, "etag")
        assert edition_of(spec)["revision"] == self.OTHER
        message = f"{path} was downloaded at commit {self.OTHER}, benchmark.revision is {self.COMMIT}: remove"
        with pytest.raises(ValueError, match=re.escape(message)):
            load_questions(pinned)
        later = path.stat().st_mtime + 60
        os.utime(path, (later, later))
        assert edition_of(spec)["revision"] is None, "changed since"
        note = Path(spec.data_root, ".cache/huggingface/download/a/rows.jsonl.metadata")
        note.write_text("no note\n")
        assert edition_of(pinned)["revision"] is None
        assert len(load_questions(pinned)) == 1
        assert self.asked == []

    def test_a_run_goes_on_with_the_same_commit_only(self, spec: TableBenchmark, tmp_path: Path) -> None:
        self.write(Path(spec.data_root), "a/rows.jsonl")
        write_download_metadata(Path(spec.data_root), "a/rows.jsonl", self.COMMIT, "etag")
        Records(tmp_path / "out", edition_of(spec)).append([{"id": "0"}])
        refuse_other_settings(tmp_path / "out", edition_of(spec))
        write_download_metadata(Path(spec.data_root), "a/rows.jsonl", self.OTHER, "etag")
        message = f"revision is '{self.COMMIT}' there and '{self.OTHER}' now; choose another output_dir"
        with pytest.raises(ValueError, match=message):
            refuse_other_settings(tmp_path / "out", edition_of(spec))

    def test_files_of_several_commits_are_of_none(self, spec: TableBenchmark) -> None:
        spec = dataclasses.replace(spec, annotations=("a.jsonl", "b.jsonl"))
        for name, commit in zip(spec.annotations, (self.COMMIT, self.OTHER), strict=True):
            self.write(Path(spec.data_root), name)
            write_download_metadata(Path(spec.data_root), name, commit, "etag")
        assert edition_of(spec)["revision"] is None
        write_download_metadata(Path(spec.data_root), "b.jsonl", self.COMMIT, "etag")
        assert edition_of(spec)["revision"] == self.COMMIT

    def test_a_snapshot_of_the_cache_tells_its_commit(self, spec: TableBenchmark, tmp_path: Path) -> None:
        snapshot = tmp_path / "hub/datasets--me--own/snapshots" / self.COMMIT
        blob = self.write(tmp_path / "hub/datasets--me--own/blobs", "1")
        (snapshot / "a").mkdir(parents=True)
        (snapshot / "a/rows.jsonl").symlink_to(blob)
        (tmp_path / "link").symlink_to(snapshot)
        for root in (snapshot, tmp_path / "link"):
            cached = dataclasses.replace(spec, data_root=str(root))
            assert edition_of(cached)["revision"] == self.COMMIT
        with pytest.raises(ValueError, match=f"downloaded at commit {self.COMMIT}"):
            load_questions(dataclasses.replace(cached, revision=self.OTHER))

    @pytest.mark.parametrize("revision", ["main", "v1.0", "0123456", ""])
    def test_what_may_move_is_no_revision(self, revision: str) -> None:
        with pytest.raises(ValueError, match=r"benchmark\.revision is .*, must be a commit, 40 hexadecimal"):
            TableBenchmark("own", revision=revision)

    @pytest.mark.parametrize("name", [name for name in MINIATURES if name != "tomato"])
    def test_the_benchmarks_are_pinned(self, name: str) -> None:
        spec = benchmark(name)
        assert f"hf download {spec.repo} --repo-type dataset --revision {spec.revision} " in missing_files(
            spec, []
        )
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            config = compose("eval", [f"benchmark={name}", f"benchmark.revision={self.OTHER}"])
        spec = read_benchmark(OmegaConf.to_container(config.benchmark, resolve=True))
        assert spec.revision == self.OTHER
