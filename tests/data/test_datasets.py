from __future__ import annotations

import dataclasses
import json
import os
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stts.data import DataSpec, JsonlData, VideoError, VideoQADataset, load_data, write_video
from stts.data.rows import answer_index, checked_rows, resolve_video, row_messages
from stts.data.video.config import VideoConfig
from stts.files.jsonl import read_jsonl

QUESTION = {"id": "q1", "video": "clip.mp4", "question": "Which?", "answer": "a cat"}
ONE_FORM = {"question": ..., "answer": ...}
TURNS = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A cat."}]


class Recorder:
    """Stands in for a processor: hands back what it was asked to process."""

    image_size = 32

    def __call__(self, messages, clip=None):
        if messages[0]["content"] == "refuse me":
            raise ValueError("messages[0] is refused")
        return {"messages": messages, "clip": clip}


def write_rows(folder, *rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def dataset(folder, *rows, **kwargs):
    settings = {"root": folder, "processor": Recorder(), "frames": 4} | kwargs
    return VideoQADataset(write_rows(folder, *rows), **settings)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """clip.mp4: 3 s at 8 fps; frame i is grey level 10 * i."""
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "clip.mp4", (np.full((32, 64, 3), 10 * i, np.uint8) for i in range(24)), fps=8)
    return folder


# --- read_jsonl


def test_rows_in_order_without_blank_lines(tmp_path):
    path = write_rows(tmp_path, {"id": 1}, "\n", {"id": "zwei \u2028 ü"}, "  \n")
    assert read_jsonl(path) == [{"id": 1}, {"id": "zwei \u2028 ü"}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": 2,}\n', r"rows.jsonl:3: not valid JSON"),
        ("[1]\n", r"rows.jsonl:3: is a list, must be an object"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
    with pytest.raises(ValueError, match=message):
        read_jsonl(write_rows(tmp_path, {"id": 1}, "\n", line, {"id": 3}))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.jsonl"):
        read_jsonl(tmp_path / "nothing.jsonl")
    (tmp_path / "latin.jsonl").write_bytes('{"id": "\xe4"}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.jsonl"):
        read_jsonl(tmp_path / "latin.jsonl")


# --- resolve_video


def test_names_inside_the_root(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "a.mp4").touch()
    (tmp_path / "real" / "link.mp4").symlink_to(tmp_path / "real" / "a.mp4")
    for name, target in (("a.mp4", "a.mp4"), ("link.mp4", "a.mp4"), ("./sub/..b.mp4", "sub/..b.mp4")):
        assert resolve_video(tmp_path / "root", name) == tmp_path / "real" / target


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../out.mp4", "sub/../../out.mp4", "", " ", None, 3, "a\0b", ".."]
)
def test_names_that_leave_the_root(tmp_path, name):
    with pytest.raises(ValueError, match="video is "):
        resolve_video(tmp_path, name)


@pytest.mark.parametrize("name", ["link.mp4", "folder/clip.mp4"])
def test_symlinks_out_of_the_root(tmp_path, name):
    root, outside = tmp_path / "root", tmp_path / "root_outside"
    root.mkdir()
    outside.mkdir()
    (outside / "clip.mp4").touch()
    (root / "link.mp4").symlink_to(outside / "clip.mp4")
    (root / "folder").symlink_to(outside)
    with pytest.raises(ValueError, match=rf"'{name}' leads out of the data root {root}"):
        resolve_video(root, name)


@given(st.lists(st.sampled_from(["..", ".", "a", "b", "", "/", "link", "~", "..."]), min_size=1, max_size=6))
def test_whatever_resolves_is_inside(tmp_path_factory, parts):
    base = tmp_path_factory.getbasetemp() / "resolve"
    (base / "root" / "a").mkdir(parents=True, exist_ok=True)
    if not (base / "root" / "link").is_symlink():
        (base / "root" / "link").symlink_to(base)
    root = base / "root"
    try:
        path = resolve_video(root, "/".join(parts))
    except ValueError:
        return
    assert os.path.commonpath([os.path.realpath(path), os.path.realpath(root)]) == os.path.realpath(root)


# --- answers and conversations


@pytest.mark.parametrize(
    ("answer", "options", "index"),
    [
        ("blue", ["red", "blue"], 1),
        (" blue ", ["red", "blue "], 1),
        ("B", ["red", "blue"], 1),
        ("a", ["red", "blue"], 0),
        (1, ["red", "blue"], 1),
        ("A", ["B", "A"], 1),  # a text before a letter
        ("2", ["1", "2", "3"], 1),
        ("B. blue", ["A. red", "B. blue"], 1),
        ("blue", ["A. red", "B. blue"], 1),
        ("same", ["same", "same"], 0),
    ],
)
def test_an_answer_names_an_option(answer, options, index):
    assert answer_index(answer, options) == index


@pytest.mark.parametrize("answer", ["C", "green", "", 2, -1, True, None, 1.0, ["red"], "AB"])
def test_an_answer_that_names_none(answer):
    with pytest.raises(ValueError, match=r"answer is .*'red', 'blue'"):
        answer_index(answer, ["red", "blue"])


def test_conversations():
    assert row_messages({"messages": TURNS}) == TURNS
    assert [m["content"] for m in row_messages(QUESTION)] == ["Which?", "a cat"]
    user, assistant = row_messages(QUESTION | {"options": ["a dog", "a cat"]})
    assert user["content"].split("\n")[:3] == ["Which?", "A. a dog", "B. a cat"]
    assert (user["role"], assistant) == ("user", {"role": "assistant", "content": "B"})


# --- VideoQADataset


def test_examples_carry_clip_messages_and_id(videos):
    rows = [
        QUESTION,
        {"id": 7, "video": "clip.mp4", "messages": TURNS},
        {"id": "t", "video": None, "messages": TURNS},
    ]
    data = dataset(videos, *rows, frames=VideoConfig(3, max_fps=1))
    assert len(data) == 3
    first, second, third = (data[i] for i in range(3))
    assert (first["id"], second["id"], third["id"]) == ("q1", "7", "t")
    assert second["messages"] == TURNS
    assert third["clip"] is None
    assert first["clip"].frames.shape == (3, 32, 32, 3)  # the processor's size
    levels = first["clip"].frames.mean((1, 2, 3)) / 10  # frame numbers
    assert np.allclose(levels, first["clip"].timestamps * 8, atol=0.5)
    assert first["clip"].timestamps[0] == 0


def test_only_the_part_asked_for_is_read(videos):
    row = QUESTION | {"start": 1.0, "end": 2.0}
    clip = dataset(videos, row, frames=VideoConfig(8, max_fps=8))[0]["clip"]
    levels = clip.frames.mean((1, 2, 3)) / 10
    assert levels.min() >= 7.5
    assert levels.max() <= 16.5


def test_the_root_is_the_files_own_folder_by_default(videos):
    assert dataset(videos, QUESTION, root=None)[0]["clip"] is not None


def test_sampling_and_backend_are_passed_on(videos):
    asked = VideoConfig(3, max_fps=1.5, backend="decord", sampling="transformers")
    data = dataset(videos, QUESTION | {"end": 2.0}, frames=asked, folder_fps=5.0)
    data.read = lambda path, **settings: settings
    own = {"start": None, "end": 2.0, "size": Recorder.image_size, "folder_fps": 5.0}
    assert data.read_clip(0, data.rows[0]) == dataclasses.asdict(asked) | own


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, "id is None"),
        ({"id": ""}, "id is ''"),
        ({"id": ...}, "id is missing"),
        ({"video": ...}, "video is missing"),
        ({"video": "../clip.mp4"}, "video is '../clip.mp4', must be relative"),
        ({"video": 5}, "video is 5"),
        ({"question": ...}, "question is missing"),
        ({"question": 3}, "question is 3"),
        ({"answer": ...}, "answer is missing"),
        ({"answer": " "}, "answer is ' '"),
        ({"options": "a cat"}, "options is 'a cat', must be a list"),
        ({"options": ["a dog", 3]}, "options is"),
        ({"options": ["a cat"]}, "1 options"),
        ({"options": ["a dog", "a cow"]}, "answer is 'a cat'"),
        (ONE_FORM | {"messages": "hi"}, "messages is 'hi'"),
        (ONE_FORM | {"messages": TURNS[:1]}, "must end with the assistant's"),
        (ONE_FORM | {"messages": [*TURNS, {"role": "user"}]}, r"messages\[2\]"),
        ({"messages": TURNS}, "messages and question are both given"),
        ({"options": ["a cat", " "]}, "options is .*, one is empty"),
        (
            {"options": ["1", "2", "3"], "answer": 2},
            "answer is the number 2, which may be an index or one of",
        ),
        ({"options": ["$1", "$2"], "answer": 1}, "answer is the number 1, which may be"),
        ({"options": ["1 cat", "2 cats"], "answer": 1}, "answer is the number 1, which may be"),
        ({"options": ["first", "\u2461"], "answer": 0}, "answer is the number 0, which may be"),
        ({"video": None, "start": 1}, "start or end is given, but video is null"),
        ({"start": float("inf")}, "start is inf"),
        ({"question": "What? \ud83d"}, r"question is .*holds half of a character, '\\ud83d'"),
        ({"answer": "\udc00"}, "answer is .*half of a character"),
        ({"id": "\ud83d"}, "id is .*half of a character"),
        ({"video": "\ud83d.mp4"}, "video is .*half of a character"),
        ({"options": ["a cat", "\ud83d"]}, "options is .*half of a character"),
        ({"question": "a\0b"}, "question is .*holds NUL"),
        (
            ONE_FORM | {"messages": [TURNS[0], TURNS[1] | {"content": "\ud83d"}]},
            r"messages\[1\] is .*half of",
        ),
        ({"images": ["x.png"]}, r"images is \['x.png'\], but a row has one video"),
        ({"videos": ["b.mp4"]}, "videos is"),
        ({"audio": "a.wav"}, "audio is"),
        ({"question": "<video>\nWhat?"}, "placeholder <video>"),
        ({"question": "<image>What?"}, "placeholder <image>"),
        ({"question": "What?\n<video><video>"}, "placeholder <video><video>"),
        ({"conversations": []}, "data=llava_video"),
        ({"evidence": [{"start": 0}]}, "evidence is"),
        ({"evidence": 3}, "evidence is 3"),
        ({"start": -1}, "start is -1"),
        ({"start": "0"}, "start is '0'"),
        ({"end": float("nan")}, "end is nan"),
        ({"start": 2, "end": 2}, "end is 2, must be after start 2"),
        ({"end": 0}, "end is 0, must be after start 0"),
    ],
)
def test_a_wrong_row_names_file_line_id_and_key(tmp_path, change, message):
    row = {key: value for key, value in (QUESTION | change).items() if value is not ...}
    with pytest.raises(
        ValueError, match=rf"rows\.jsonl:3 \(id {re.escape(repr(row.get('id')))}\): .*{message}"
    ):
        dataset(tmp_path, QUESTION | {"id": "fine"}, "\n", row)


def test_keys_that_nobody_reads_are_told(tmp_path, caplog):
    rows = [
        QUESTION | {"choices": ["a cat"], "source": "web"},
        QUESTION | {"id": "q2", "strat": 1, "End": 2, "images": [], "source": "web"},
        QUESTION | {"id": "q3", "question": "What does `<video>` mean in <video></video>?"},
    ]
    notes = dataset(tmp_path, *rows).rows.notes
    assert notes == {
        "nobody reads the key 'choices' (did you mean 'options'?)": 1,
        "nobody reads the key 'source'": 2,
        "nobody reads the key 'strat' (did you mean 'start'?)": 1,
        "nobody reads the key 'End' (did you mean 'end'?)": 1,
        "<video> in a question is read as text": 1,
    }
    (line,) = [record.getMessage() for record in caplog.records]
    assert "'source': 2 rows" in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"id": 1, "x": %s}' % (b"[" * 20000 + b"]" * 20000), r"rows\.jsonl:1: not valid JSON"),
        (b'{"id": 1, "id": 2}', "rows\\.jsonl:1: not valid JSON: the key 'id' stands twice"),
        ('{"id": 1}'.encode("utf-16"), r"rows\.jsonl: is UTF-16, must be UTF-8"),
    ],
)
def test_files_that_are_read_otherwise_than_meant(tmp_path, text, message):
    (tmp_path / "rows.jsonl").write_bytes(text)
    with pytest.raises(ValueError, match=message):
        checked_rows(tmp_path / "rows.jsonl")


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = write_rows(tmp_path, QUESTION, QUESTION | {"id": "q2"})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [row["id"] for row in checked_rows(path)] == ["q1", "q2"]


def test_options_lose_their_own_letters(tmp_path):
    row = QUESTION | {"options": ["A. a dog", "B. a cat"], "answer": "B"}
    assert row_messages(row) == row_messages(QUESTION | {"options": ["a dog", "a cat"]})


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(
        ["\ud83d", "\0", "clip.mp4", "../x", "/x", "B", "user", "assistant", "<video>", 10**400]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
KEYS = ["id", "video", "question", "answer", "options", "messages", "start", "end", "evidence", "images", "x"]


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=4), st.booleans())
def test_any_row_is_fine_or_refused_by_name(tmp_path_factory, change, turns):
    folder = tmp_path_factory.getbasetemp() / "any_row"
    folder.mkdir(exist_ok=True)
    base = {"id": "t", "video": None, "messages": TURNS} if turns else QUESTION
    path = write_rows(folder, base | change)
    refused, rows = "", []
    try:
        rows = list(checked_rows(path))
    except ValueError as error:
        refused = str(error)
    assert rows or refused.startswith(f"{path}:1")
    assert refused.encode() or all(message["content"].encode() for message in row_messages(rows[0]))


def test_ids_are_unique(tmp_path):
    with pytest.raises(ValueError, match=r"rows\.jsonl:3: id '7' was used in line 1"):
        dataset(tmp_path, QUESTION | {"id": 7}, QUESTION, QUESTION | {"id": "7"})


def test_a_file_without_rows(tmp_path):
    with pytest.raises(ValueError, match=r"rows\.jsonl: holds no examples"):
        dataset(tmp_path, "\n")


def test_no_frames(tmp_path):
    with pytest.raises(ValueError, match="frames is 0"):
        dataset(tmp_path, QUESTION, frames=0)


def test_errors_of_one_example_name_it(videos):
    link = videos / "out.mp4"
    link.symlink_to("/etc/hostname")
    rows = [
        QUESTION | {"id": "gone", "video": "gone.mp4"},
        QUESTION | {"id": "out", "video": "out.mp4"},
        QUESTION | {"id": "refused", "question": "refuse me"},
    ]
    data = dataset(videos, *rows)
    with pytest.raises(VideoError, match=r"gone\.mp4"):
        data[0]
    with pytest.raises(ValueError, match=r"rows\.jsonl:2 \(id 'out'\): video 'out\.mp4' leads out"):
        data[1]
    with pytest.raises(ValueError, match=r"rows\.jsonl:3 \(id 'refused'\): messages\[0\] is refused"):
        data[2]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_reads_it(videos, workers):
    rows = [QUESTION | {"id": str(i)} for i in range(5)]
    loader = torch.utils.data.DataLoader(
        dataset(videos, *rows),
        num_workers=workers,
        collate_fn=lambda batch: [example["id"] for example in batch],
    )
    assert [*loader] == [[str(i)] for i in range(5)]


# --- where the data is


def test_own_files(tmp_path):
    path = write_rows(tmp_path, QUESTION)
    paths = load_data(DataSpec.from_dict({"name": "jsonl", "annotations": str(path), "root": str(tmp_path)}))
    assert (paths.train, paths.test, paths.root) == (path, None, tmp_path)
    assert load_data(JsonlData(str(path), str(path))).root is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "parquet"}, "data.name is 'parquet'"),
        ({"name": "jsonl"}, "data.annotations is not set"),
        ({"name": "jsonl", "annotations": "a.jsonl", "seed": 0}, "data.seed is unknown"),
        ({"name": "jsonl", "annotations": "a.jsonl", "folder": "x"}, "data.folder has no meaning"),
        ({"name": "synthetic", "root": "x"}, "data.root has no meaning"),
        (
            {"annotations": "x"},
            "annotations has no meaning with data.name=synthetic, add data=jsonl or data=ll",
        ),
        (
            {"name": "molmo2", "annotations": "x", "seed": 0},
            "data.seed is unknown, data.name=molmo2 takes anno",
        ),
        ({"name": "mixture"}, "data.datasets is empty"),
        ({"name": "mixture", "datasets": {"a": {"name": "mixture"}}}, "data.datasets.a is"),
        (
            {"name": "mixture", "datasets": {"a": {"name": "jsonl"}}},
            "data.datasets.a: data.annotations is not",
        ),
        ({"name": "jsonl", "annotations": 3}, "data.annotations is 3, must be str"),
        ({"decode_timeout": 0}, "data.decode_timeout is 0"),
        ({"max_bad_fraction": 2}, "data.max_bad_fraction is 2"),
        ({"weight": -1}, "weight is -1"),
    ],
)
def test_settings_that_do_not_go_together(values, message):
    with pytest.raises(ValueError, match=message):
        DataSpec.from_dict(values)


@pytest.mark.parametrize("key", ["annotations", "test_annotations", "root"])
def test_files_that_are_not_there(tmp_path, key):
    values = {
        "name": "jsonl",
        "annotations": str(write_rows(tmp_path, QUESTION)),
        key: str(tmp_path / "gone"),
    }
    with pytest.raises(ValueError, match=rf"data\.{key} is .*gone, no such"):
        load_data(DataSpec.from_dict(values))


def test_synthetic_clips_are_generated_and_read(tmp_path):
    values = {
        "name": "synthetic",
        "folder": str(tmp_path / "clips"),
        "num_train": 1,
        "num_test": 1,
        "seed": 3,
    }
    paths = load_data(DataSpec.from_dict(values))
    for path in (paths.train, paths.test):
        data = VideoQADataset(path, paths.root, Recorder(), frames=4)
        assert data[0]["clip"].frames.shape == (4, 32, 32, 3)
        assert data[0]["messages"][-1]["role"] == "assistant"


def test_an_unknown_synthetic_setting(tmp_path):
    with pytest.raises(ValueError, match="num_clips"):
        load_data(DataSpec.from_dict({"folder": str(tmp_path / "clips"), "num_clips": 3}))
