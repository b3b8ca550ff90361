from __future__ import annotations

import json
import random
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stts.data import DataSpec, load_data
from stts.data.readers import join, json_list
from stts.data.readers import points as pointing
from stts.data.readers.base import Entry
from stts.data.readers.json_list import scan_list
from stts.data.rows import checked_rows

MC = "Which?\nA. one.\nB. two.\nPlease provide your answer by stating the letter followed by the full option."
"""How LLaVA-Video-178K asks multiple choice."""


def llava(video, *turns, source="0_30_s_academic_v0_1", name="x"):
    said = [{"from": "human" if i % 2 == 0 else "gpt", "value": text} for i, text in enumerate(turns)]
    return {"id": name, "conversations": said, "data_source": source, "video": video}


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def convert(name, annotations, tmp_path, **settings):
    spec = DataSpec.from_dict(
        {"name": name, "annotations": str(annotations), "folder": str(tmp_path / "rows"), **settings}
    )
    paths = load_data(spec)
    return list(checked_rows(paths.train)), paths


@pytest.fixture
def published(tmp_path):
    """Two subsets of LLaVA-Video-178K as they are after downloading and unpacking."""
    root = tmp_path / "LLaVA-Video-178K"
    first, second = root / "0_30_s_academic_v0_1", root / "1_2_m_nextqa"
    touch(first, "academic_source/Charades/RW587.mp4", "academic_source/Charades/Q.mp4")
    touch(second, "NextQA/NExTVideo/1006/89.mp4")
    open_ended = [
        llava("academic_source/Charades/RW587.mp4", "<image>\nWhat is it?", "A cat.", name="RW587"),
        llava("academic_source/Charades/Q.mp4", "<image>\nWho?", "A man.", "Where?", "At home.", name="Q"),
        llava("academic_source/Charades/RW587.mp4", "<image>\nWhy?", "It is hungry.", name="RW587"),
    ]
    (first / "0_30_s_academic_oe_v0_1_qa_processed.json").write_text(json.dumps(open_ended, indent=2))
    choice = [llava("NextQA/NExTVideo/1006/89.mp4", f"<image>\n{MC}", "A. one.", source="1_2_m_nextqa")]
    (second / "1_2_m_nextqa_mc_qa_processed.json").write_text(json.dumps(choice))
    return root


def test_llava_video_as_published(published, tmp_path):
    rows, paths = convert("llava_video", published, tmp_path)
    assert paths.root == published
    assert [row["id"] for row in rows] == [
        *(f"0_30_s_academic_v0_1/0_30_s_academic_oe_v0_1_qa_processed:{i}" for i in range(3)),
        "1_2_m_nextqa/1_2_m_nextqa_mc_qa_processed:0",
    ]
    assert all((paths.root / row["video"]).is_file() for row in rows)
    assert rows[1]["messages"] == [
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "A man."},
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "At home."},
    ]
    assert [m["content"] for m in rows[3]["messages"]] == [MC, "A. one."]
    assert (tmp_path / "rows" / "left_out.jsonl").read_text() == ""


def test_one_file_with_all_archives_unpacked_in_one_place(published, tmp_path):
    videos = tmp_path / "videos"
    touch(videos, "academic_source/Charades/RW587.mp4", "academic_source/Charades/Q.mp4")
    file = next((published / "0_30_s_academic_v0_1").glob("*.json"))
    rows, paths = convert("llava_video", file, tmp_path, root=str(videos))
    assert paths.root == videos
    assert [row["video"] for row in rows][:2] == [
        "academic_source/Charades/RW587.mp4",
        "academic_source/Charades/Q.mp4",
    ]
    assert rows[0]["id"] == "0_30_s_academic_oe_v0_1_qa_processed:0"


def test_questions_about_one_video_share_it(published, tmp_path):
    rows, _ = convert("llava_video", published, tmp_path, max_turns=2)
    texts = [[m["content"] for m in row["messages"]] for row in rows]
    assert texts == [
        ["Who?", "A man.", "Where?", "At home."],
        ["What is it?", "A cat.", "Why?", "It is hungry."],
        [MC, "A. one."],
    ]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4)), max_size=20),
    st.integers(1, 5),
)
def test_joining_keeps_every_turn_and_the_limit(rows, limit):
    entries = [
        Entry(str(i), (video,), tuple((f"q{i}.{t}", "a") for t in range(count)))
        for i, (video, count) in enumerate(rows)
    ]
    joined = list(join(entries, limit))
    assert sorted(t for e in joined for t in e.turns) == sorted(t for e in entries for t in e.turns)
    for entry in joined:
        whole = {turn[0].split(".")[0] for turn in entry.turns}
        assert len(entry.turns) <= limit or len(whole) == 1
        assert {rows[int(name[1:])][0] for name in whole} == {entry.videos[0]}
        assert [t for e in entries for t in e.turns if t in entry.turns] == list(entry.turns)
    assert limit > 1 or joined == entries


def test_missing_videos_stop_or_are_left_out_by_name(published, tmp_path, capsys):
    (published / "0_30_s_academic_v0_1/academic_source/Charades/Q.mp4").unlink()
    with pytest.raises(
        ValueError, match=r"1 of 4 rows .*missing_videos=skip:\n.*processed:1: there is no video"
    ):
        convert("llava_video", published, tmp_path)
    assert not (tmp_path / "rows").exists()
    rows, _ = convert("llava_video", published, tmp_path, missing_videos="skip")
    assert len(rows) == 3
    (log,) = map(json.loads, (tmp_path / "rows" / "left_out.jsonl").read_text().splitlines())
    assert log["row"].endswith("processed:1")
    assert "3 examples, 1 left out because their video is not there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (llava("v.mp4", "<image>\nWhat?"), "conversations is"),
        (llava("v.mp4", "<image>\n", "A cat."), r"conversations\[0\] is empty"),
        (llava("v.mp4", "What?", " "), r"conversations\[1\] is empty"),
        (
            llava("v.mp4", "What?", "A.") | {"conversations": [{"from": "gpt", "value": "A."}] * 2},
            "must be from human",
        ),
        (llava("v.mp4", "What?", "A.") | {"conversations": "What?"}, "conversations is 'What"),
        (llava("../v.mp4", "What?", "A."), "without '..'"),
        (llava("/v.mp4", "What?", "A."), "must be relative"),
        (llava(None, "What?", "A."), "video is None"),
        (llava("v.mp4", "What? \ud83d", "A."), r"messages\[0\] is .*half of a character"),
        (
            llava("v.mp4", "What?", "A.") | {"conversations": [{"from": ["human"], "value": "A."}] * 2},
            "must be from human",
        ),
        (llava("out/passwd", "What?", "A."), "leads out of the data root"),
    ],
)
def test_broken_rows_are_named_and_counted(tmp_path, row, reason):
    touch(tmp_path, "v.mp4")
    (tmp_path / "out").symlink_to("/etc")
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([llava("v.mp4", "<image>\nWhat?", "A cat.")] * 3 + [row]))
    with pytest.raises(ValueError, match=rf"1 of 4 rows .* are broken.*\n  rows:3: .*{reason}"):
        convert("llava_video", file, tmp_path, max_bad_fraction=0.2)
    rows, _ = convert("llava_video", file, tmp_path, max_bad_fraction=0.25)
    assert len(rows) == 3
    assert json.loads((tmp_path / "rows" / "left_out.jsonl").read_text())["row"] == "rows:3"


def test_converting_is_done_once_and_again_when_the_files_change(published, tmp_path):
    _, paths = convert("llava_video", published, tmp_path)
    stamp = paths.train.stat().st_mtime_ns
    convert("llava_video", published, tmp_path)
    assert paths.train.stat().st_mtime_ns == stamp
    file = next((published / "1_2_m_nextqa").glob("*.json"))
    file.write_text("[]")
    rows, _ = convert("llava_video", published, tmp_path)
    assert len(rows) == 3


@pytest.mark.parametrize("name", ["gone", "empty", "rows.txt"])
def test_nothing_to_read(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "rows.txt").touch()
    with pytest.raises(ValueError, match=r"annotations is .* must be a \.json or \.jsonl file"):
        convert("llava_video", tmp_path / name, tmp_path)


# --- lists that are larger than memory


@settings(deadline=None)
@given(
    rows=st.lists(
        st.dictionaries(st.text(max_size=3), st.text() | st.lists(st.integers(), max_size=3)), max_size=8
    ),
    indent=st.sampled_from([None, 2]),
    chunk=st.integers(1, 20),
)
def test_a_list_is_read_object_by_object(tmp_path_factory, rows, indent, chunk):
    path = tmp_path_factory.getbasetemp() / "list.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_list, "CHUNK", chunk)
        assert list(scan_list(path)) == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold a JSON list"),
        ('{"a": 1}', "must hold a JSON list"),
        ('[{"a": 1}', "before object 1: the file ends where ',' must be"),
        ('[{"a": 1} {"a": 2}]', "before object 1: '{' where ',' must be"),
        ('[{"a": 1}, {"a": 2]', "object 1 is not valid JSON"),
        ('[{"a": 1}, 2]', "before object 1: '2' where '{' must be"),
        ('[{"a": "', "object 0 is not valid JSON"),
    ],
)
def test_a_list_that_is_broken_is_named(tmp_path, text, message):
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(ValueError, match=rf"list\.json: .*{message}"):
        list(scan_list(tmp_path / "list.json"))


# --- Molmo2


def write_parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def choice(number, video="vid0", wrong=("red", "green", "grey")):
    return {
        "video_id": video,
        "Question": f"What colour is number {number}? ",
        "Answer": "blue",
        "Category": "object properties",
        "NegativeAnswers": list(wrong),
    }


@pytest.fixture
def molmo(tmp_path):
    """A folder of videos in the layouts of Molmo2: {id}.mp4, {id}/file, LLaVA's v_{id}."""
    root = tmp_path / "videos"
    touch(
        root,
        "youtube-cc/youtube-cc-exist/vid0/movie.webm",
        "flat/vid1.mp4",
        "activitynet/v_vid2.mkv",
        "note.txt",
    )
    return root


def test_molmo2_multiple_choice(molmo, tmp_path):
    file = tmp_path / "Molmo2-VideoCapQA/data/CapQA-00000-of-00001.parquet"
    write_parquet(file, [choice(i) for i in range(24)] + [choice(0, "vid1")])
    rows, _ = convert("molmo2", file.parents[1], tmp_path, root=str(molmo), max_turns=5)
    assert [len(row["messages"]) // 2 for row in rows] == [5, 5, 5, 5, 4, 1]
    assert rows[0]["video"] == "youtube-cc/youtube-cc-exist/vid0/movie.webm"
    assert rows[-1]["video"] == "flat/vid1.mp4"
    assert rows[0]["id"] == "data/CapQA-00000-of-00001:0"
    letters = set()
    for row in rows:
        for question, answer in zip(row["messages"][::2], row["messages"][1::2], strict=True):
            lines = question["content"].split("\n")
            assert lines[0].startswith("What colour is number")
            assert sorted(line[3:] for line in lines[1:5]) == ["blue", "green", "grey", "red"]
            assert lines[1 + "ABCD".index(answer["content"])] == f"{answer['content']}. blue"
            letters.add(answer["content"])
    assert letters == set("ABCD")  # a place that never changed would be learned
    random.seed(5)
    assert (
        convert("molmo2", file.parents[1], tmp_path, root=str(molmo), max_turns=4)[0][0]["messages"]
        == (rows[0]["messages"][:8])
    )


def test_molmo2_long_videos_people_captions_and_subtitles(molmo, tmp_path):
    folder = tmp_path / "sets"
    write_parquet(folder / "a.parquet", [{"video_id": "vid1", "qa_list": [choice(1), choice(2, wrong=())]}])
    write_parquet(
        folder / "b.parquet",
        [
            {"video_id": "vid0", "question": " What? ", "answer": "A cat. "},
            {"video_id": "vid0", "question": "Who?", "answer": " "},
        ],
    )
    captions = {"merged_caption": "short", "video_frame_merged_caption": "A long story."}
    write_parquet(folder / "c.parquet", [{"video_id": "vid2"} | captions])
    cues = [{"start": 0.0, "end": 1.25, "text": " Hello "}, {"start": 2.0, "end": 3.0, "text": ""}]
    asked = {"subtitle": cues, "AlignmentType": "x"}
    write_parquet(folder / "d.parquet", [choice(7) | asked, choice(8) | asked])
    rows, _ = convert("molmo2", folder, tmp_path, root=str(molmo), max_turns=2)
    texts = {row["id"]: [m["content"] for m in row["messages"]] for row in rows}
    assert sorted(texts) == ["a:0", "b:0", "c:0", "d:0"]
    assert texts["a:0"][2:] == ["What colour is number 2?", "blue"]
    assert texts["b:0"] == ["What?", "A cat."]
    assert texts["c:0"] == ["Describe this video in detail.", "A long story."]
    assert texts["d:0"][0].startswith("Subtitles:\n0.0 - 1.2 Hello\nWhat colour is number 7?\nA. ")
    assert texts["d:0"][2].startswith("What colour is number 8?")
    assert next(row["video"] for row in rows if row["id"] == "c:0") == "activitynet/v_vid2.mkv"


def test_molmo2_without_videos_or_with_unknown_columns(molmo, tmp_path):
    write_parquet(tmp_path / "a.parquet", [choice(1), choice(2, "gone")])
    with pytest.raises(ValueError, match=r"1 of 2 rows .*\n  a:1: there is no video gone"):
        convert("molmo2", tmp_path / "a.parquet", tmp_path, root=str(molmo), max_turns=1)
    write_parquet(
        tmp_path / "p.parquet", [{"video_id": "vid0", "label": "cat", "points": [[1.0, 2.0]], "count": 1}]
    )
    with pytest.raises(ValueError, match=r"p:0: .*its columns are video_id, label, points, count"):
        convert("molmo2", tmp_path / "p.parquet", tmp_path, root=str(molmo))
    (tmp_path / "q.parquet").write_text("not parquet")
    with pytest.raises(ValueError, match=r"q\.parquet: cannot be read as parquet"):
        convert("molmo2", tmp_path / "q.parquet", tmp_path, root=str(molmo))


# --- pointing


def point(
    number=0, times=(0.5, 2.0), points=(((30, 40), (10.5, 20.5)), ((11, 21),)), video="vid1", **changes
):
    """A row of Molmo2-VideoPoint."""
    row = {
        "video_id": video,
        "question": f"How many cups are on table {number}?",
        "label": "cups",
        "count": sum(map(len, points)),
        "two_fps_timestamps": list(times),
        "points": [[{"x": float(x), "y": float(y)} for x, y in frame] for frame in points],
        "annotator_unsure": False,
        "category": "object",
        "video_duration": 20.0,
        "video_source": "youtube",
        "clip_start": None,
        "clip_end": None,
    }
    return row | changes


@pytest.mark.parametrize(
    ("times", "points", "coords", "number"),
    [
        ([0.5], [[(50, 50)]], "0.5 1 500 500", 1),
        # of a frame in order of x, then y, after rounding; numbered through; whole seconds with their tenth
        ([0.5, 2], [[(30, 40), (10.5, 20.5)], [(11, 21)]], "0.5 1 105 205 2 300 400;2.0 3 110 210", 3),
        ([0.0], [[(20.04, 9), (20.01, 10)]], "0.0 1 200 090 2 200 100", 2),
        ([1.0], [[(0, 0), (100, 99.96), (0.04, 7)]], "1.0 1 000 000 2 000 070 3 1000 1000", 3),
        ([61.5], [[(-3, 120)]], "61.5 1 000 1000", 1),  # moved to the edge
        ([1.0, 1.5], [[], [(1, 2)]], "1.5 1 010 020", 1),  # a frame without a point is not listed
        ([3.0], [[(5, 5)] * 2], "3.0 1 050 050 2 050 050", 2),
    ],
)
def test_points_are_written_as_molmo2_writes_them(times, points, coords, number):
    written = f'<points coords="{coords}">red cups</points>'
    assert pointing.answer("red cups", times, points, count=False) == written
    total = f"Counting the {written} shows a total of {number}."
    assert pointing.answer("red cups", times, points, count=True) == total


def test_nothing_to_point_at():
    for count in (False, True):
        assert (
            pointing.answer("cups", [], [], count)
            == pointing.answer("cups", [1.0], [[]], count)
            == "There are none."
        )


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=4),
        min_size=1,
        max_size=4,
    )
)
def test_what_is_written_can_be_read_back(points):
    """By the patterns with which Ai2's code takes points out of answers."""
    times = [number / 2 for number in range(len(points))]
    text = pointing.answer("cups", times, points, count=True)
    (coords,) = re.findall(r'<(?:points|tracks).*? coords="([0-9\t:;, .]+)"/?>', text)
    found = []
    for time, rest in re.findall(r"(?:^|\t|:|,|;)([0-9\.]+) ([0-9\. ]+)", coords):
        for number, x, y in re.findall(r"([0-9]+) ([0-9]{3,4}) ([0-9]{3,4})", rest):
            found.append((float(time), int(number), int(x) / 10, int(y) / 10))
    assert [number for _, number, _, _ in found] == list(range(1, sum(map(len, points)) + 1))
    for time, placed in zip(times, points, strict=True):
        read = [(x, y) for at, _, x, y in found if at == time]
        assert read == sorted(read)
        np.testing.assert_allclose(sorted(x for x, _ in read), sorted(x for x, _ in placed), atol=0.051)
        np.testing.assert_allclose(sorted(y for _, y in read), sorted(y for _, y in placed), atol=0.051)


def test_molmo2_pointing(molmo, tmp_path):
    write_parquet(tmp_path / "data/p.parquet", [point(i) for i in range(20)])
    rows, _ = convert("molmo2", tmp_path / "data", tmp_path, root=str(molmo), max_turns=1)
    coords = '<points coords="0.5 1 105 205 2 300 400;2.0 3 110 210">cups</points>'
    said = {
        f"How many cups are on table {i}?": f"Counting the {coords} shows a total of 3." for i in range(20)
    }
    said["Point to the cups in the video."] = coords
    asked = [row["messages"][0]["content"] for row in rows]
    assert [row["messages"][1]["content"] for row in rows] == [said[question] for question in asked]
    assert 4 <= asked.count("Point to the cups in the video.") <= 16
    assert {row["video"] for row in rows} == {"flat/vid1.mp4"}
    assert not any("start" in row or "end" in row for row in rows)


def test_of_a_long_video_the_clip_is_shown_and_times_count_from_its_start(molmo, tmp_path):
    clip = {"video_duration": 300.0, "clip_start": 100.0, "clip_end": 141.3, "question": ""}
    none = point(times=(), points=(), **clip)
    touch(molmo, "sora2/cat.mp4", "veo3/cat.mp4", "exist-2fps/vid9_2fps.mp4")
    write_parquet(
        tmp_path / "p.parquet",
        [point(times=(100.0, 140.5), **clip), none]
        + [point(video=name, times=(0.0, 1.0)) for name in ("veo3/cat", "sora2/cat", "vid9")],
    )
    rows, _ = convert("molmo2", tmp_path / "p.parquet", tmp_path, root=str(molmo), max_turns=2)
    assert [row["video"] for row in rows] == [
        "flat/vid1.mp4", "veo3/cat.mp4", "sora2/cat.mp4", "exist-2fps/vid9_2fps.mp4",
    ]  # fmt: skip
    assert (rows[0]["start"], rows[0]["end"]) == (100.0, 141.3)
    texts = [message["content"] for message in rows[0]["messages"]]
    assert texts[1] == '<points coords="0.0 1 105 205 2 300 400;40.5 3 110 210">cups</points>'
    assert texts[3] == "There are none."


def test_rows_that_molmo2_does_not_train_on_are_left_out_by_name(molmo, tmp_path, capsys):
    long = {"video_duration": 300.0}
    unused = [
        (point(annotator_unsure=True), "the annotator was unsure"),
        (point(points=([(1, 1)] * 61, [])), "61 points, more than 60"),
        (point(**long), "names no clip of at most 63 s"),
        (point(**long, clip_start=10.0, clip_end=80.0), "names no clip"),
        (point(**long, clip_start=10.0, clip_end=60.0), "outside of its clip"),
    ]
    write_parquet(tmp_path / "p.parquet", [point(), *(row for row, _ in unused)])
    rows, _ = convert("molmo2", tmp_path / "p.parquet", tmp_path, root=str(molmo))
    assert [row["id"] for row in rows] == ["p:0"]
    log = [json.loads(line) for line in (tmp_path / "rows/left_out.jsonl").read_text().splitlines()]
    for line, (_, reason) in zip(log, unused, strict=True):
        assert reason in line["reason"]
    assert "5 because they are not for training" in capsys.readouterr().out

    write_parquet(tmp_path / "p.parquet", [point(times=(0.5,)), point(label=" ")])
    with pytest.raises(
        ValueError, match=r"(?s)2 of 2 .*p:0: .*1 two_fps_timestamps and 2 points.*p:1: .*label is"
    ):
        convert("molmo2", tmp_path / "p.parquet", tmp_path, root=str(molmo))
    write_parquet(tmp_path / "p.parquet", [row for row, _ in unused])
    with pytest.raises(ValueError, match="of 5 rows none is left; 0 have no video, 5 are not for training"):
        convert("molmo2", tmp_path / "p.parquet", tmp_path, root=str(molmo))


def test_settings_are_checked():
    values = {"name": "llava_video", "annotations": "x.json"}
    for change, message in (
        ({"max_turns": 0}, "max_turns is 0"),
        ({"missing_videos": "ignore"}, "missing_videos is 'ignore'"),
        ({"annotations": None}, "annotations is not set"),
        ({"test_annotations": "y"}, "test_annotations has no meaning"),
        ({"root": "/nowhere"}, "root is /nowhere, no such folder"),
    ):
        with pytest.raises(ValueError, match=message):
            load_data(DataSpec.from_dict(values | change))
