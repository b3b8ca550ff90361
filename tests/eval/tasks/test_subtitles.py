from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stts.data.prompts import multiple_choice_prompt
from stts.eval.tasks import Question, TableBenchmark
from stts.eval.tasks.prompts import PROMPTS, prompt_text
from stts.eval.tasks.subtitles import SubtitleError, Subtitles
from tests.helpers.miniatures import SRT


def cues(folder: Path, content: Any, **settings: Any) -> list[tuple[float, float, str]]:
    path = folder / ("cues.srt" if isinstance(content, str) else "cues.json")
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return [tuple(cue) for cue in Subtitles(path, **settings).cues()]


class TestSrt:
    def test_byte_order_mark_tags_and_lines(self, tmp_path: Path) -> None:
        assert cues(tmp_path, SRT) == [
            (0.0, 0.4, "Look at the table."),
            (2.9, 4.0, "A telescope from 1609."),
        ]

    def test_a_byte_order_mark_before_the_first_time(self, tmp_path: Path) -> None:
        assert cues(tmp_path, "\ufeff00:00:00,000 --> 00:00:01,000\nx") == [(0.0, 1.0, "x")]

    def test_times_of_more_than_an_hour(self, tmp_path: Path) -> None:
        assert cues(tmp_path, "1\n01:02:03,500 --> 11:00:00.250\nx\n") == [(3723.5, 39600.25, "x")]

    def test_what_real_files_get_wrong(self, tmp_path: Path) -> None:
        text = (
            "\r\n00:00:01,000 --> 00:00:02,000 X1:10\r\nno number\r\n\r\nafter an empty line\r\n"
            "2\r\n00:00:03,000 --> 00:00:04,000\r\n42\r\nis the answer\r\n"  # no empty line before the number
            "3\r\n00:00:05,000 --> 00:00:06,000\r\n\r\n"  # says nothing
            "4\r\n00:00:07,000 --> 00:00:08,000\r\n{\\an8}3 < 4 & 5 > 4"
        )
        assert cues(tmp_path, text) == [
            (1.0, 2.0, "no number after an empty line"),
            (3.0, 4.0, "42 is the answer"),
            (7.0, 8.0, "3 < 4 & 5 > 4"),
        ]

    def test_arrows_in_what_is_said_and_times_in_other_forms(self, tmp_path: Path) -> None:
        text = "WEBVTT\n\n00:01.500 --> 00:02.000 align:start\npress A --> B\n--> here\n\n0:0:3,5 --> 0:0:4,25\nx\n"
        assert cues(tmp_path, text) == [(1.5, 2.0, "press A --> B --> here"), (3.5, 4.25, "x")]

    def test_only_tags_of_subtitles_go(self, tmp_path: Path) -> None:
        said = (
            '<i>a<b and c>d</i> <im_patch> <b>x</b> <font color="red">y</font> {\\an8}z <c.yellow.bg>k</c> '
            "<00:00:01.000>w <|im_end|> <3 <video>"
        )
        text = f"00:00:01,000 --> 00:00:02,000\n<v Mary Ann>{said}\n- <v.loud Bob>no"
        expected = "a<b and c>d <im_patch> x y z k w <|im_end|> <3 <video> no"
        assert cues(tmp_path, text) == [(1.0, 2.0, expected)]

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
    def test_encodings_that_a_mark_tells(self, tmp_path: Path, encoding: str) -> None:
        path = tmp_path / "marked.srt"
        path.write_bytes("1\n00:00:01,000 --> 00:00:02,000\n你好".encode(encoding))
        assert Subtitles(path).cues() == ((1.0, 2.0, "你好"),)

    def test_empty_and_absent_files_have_no_cues(self, tmp_path: Path) -> None:
        assert cues(tmp_path, "") == []
        absent = Subtitles(tmp_path / "absent.srt")
        assert (absent.cues(), absent.shown([0.0])) == ((), "")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("<html>not found</html>", "no line holds '-->' after a time"),
            ("1\n00:00:01,000 --> 2 s\nx", "line 2 is '00:00:01,000 --> 2 s', must be"),
        ],
    )
    def test_broken_files_are_named(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(ValueError, match=rf"cues\.srt: cannot be read as subtitles: {message}"):
            cues(tmp_path, text)

    def test_another_encoding_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "old.srt").write_bytes("1\n00:00:01,000 --> 00:00:02,000\nétoile".encode("latin-1"))
        with pytest.raises(ValueError, match=r"old\.srt: cannot be read as subtitles: .*utf-8"):
            Subtitles(tmp_path / "old.srt").cues()


class TestJson:
    def test_clock_times_are_moved_to_the_start_of_the_video(self, tmp_path: Path) -> None:
        rows = [
            {"start": "00:00:20.000", "end": "00:00:29.500", "line": "before"},
            {"start": "00:00:29.000", "end": "00:00:31.250", "line": "across the start"},
            {"start": "00:00:41.000", "end": "00:00:44.000", "line": "across the end"},
            {"start": "00:00:43.000", "end": "00:00:44.000", "line": "after"},
        ]
        found = cues(tmp_path, rows, offset=30.0, duration=12.5)
        assert found == [(0.0, 1.25, "across the start"), (11.0, 14.0, "across the end")]

    def test_seconds_whole_ones_and_open_ends(self, tmp_path: Path) -> None:
        rows = [{"timestamp": [30, 31], "text": "one"}, {"timestamp": [33.5, None], "text": "open"}]
        assert cues(tmp_path, rows, offset=30.0, duration=12.5) == [(0.0, 1.0, "one"), (3.5, 12.5, "open")]

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ({"cues": []}, "must hold a JSON list"),
            ([{"start": "00:00:01.000", "line": "x"}], "cue 0 is .*'end'"),
            ([{"start": "1.0", "end": "2.0", "line": "x"}], "cue 0 is .*'1.0' must be HH:MM:SS.mmm"),
            ([{"timestamp": [1.0, 2.0]}], "cue 0 is .*'text'"),
            ([{"timestamp": [1.0, 2.0], "text": None}], "cue 0 is .*its text is None"),
            ([{"timestamp": [1.0], "text": "x"}], "cue 0 is"),
            (
                [{"timestamp": [1.0, None], "text": "x"}],
                "a cue has no end, and the length of the video is not given",
            ),
        ],
    )
    def test_broken_files_are_named(self, tmp_path: Path, rows: Any, message: str) -> None:
        with pytest.raises(ValueError, match=rf"cues\.json: cannot be read as subtitles: {message}"):
            cues(tmp_path, rows)

    def test_broken_json_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "half.json").write_text('[{"start"')
        with pytest.raises(ValueError, match=r"half\.json: cannot be read as subtitles"):
            Subtitles(tmp_path / "half.json").cues()


PIECES = st.sampled_from(
    [
        b"1\n",
        b"00:00:01,000 --> 00:00:02,000\n",
        b"9:9.5 --> ",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"[",
        b"{",
        b'"timestamp": ',
        b"[1, 2]",
        b", ",
        b'"text": "x"',
        b"}",
        b"]",
        b"1e999",
        b"NaN",
        b"9" * 400,
        b'"\\ud83d"',
        b"-->",
        b"<v x>",
        b"\0",
    ]
)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.lists(PIECES | st.binary(max_size=4), max_size=12), st.sampled_from(["srt", "json"]))
def test_any_file_is_read_or_refused_by_name(tmp_path_factory, pieces: list[bytes], suffix: str) -> None:
    data = b"".join(pieces)
    path = tmp_path_factory.getbasetemp() / f"{hashlib.sha256(data).hexdigest()[:16]}.{suffix}"
    path.write_bytes(data)
    refused = ""
    try:
        shown = Subtitles(path).shown([0.0, 1.0])
    except SubtitleError as error:
        refused, shown = str(error), ""
    assert not refused or refused.startswith(f"{path}: cannot be read as subtitles: ")
    shown.encode()


def test_cues_within_a_second_of_a_frame_are_shown(tmp_path: Path) -> None:
    ranges = [(0.0, 1.9), (2.0, 2.5), (5.0, 9.0), (11.0, 12.0), (11.1, 12.0)]
    rows = [{"timestamp": list(span), "text": f"cue {i}"} for i, span in enumerate(ranges)]
    cues(tmp_path, rows)
    subtitles = Subtitles(tmp_path / "cues.json")
    # frame times 3 and 10 stand for 2 to 4 s and 9 to 11 s
    assert subtitles.shown([3.0, 10.0]).splitlines() == [
        "Subtitles:",
        "2.0 - 2.5 cue 1",
        "5.0 - 9.0 cue 2",
        "11.0 - 12.0 cue 3",
    ]
    assert subtitles.shown([20.0]) == ""


class TestPrompt:
    OPTIONS = ("red", "blue")
    LINES = "Which?\nA. red\nB. blue"

    @pytest.mark.parametrize(
        ("prompt", "text"),
        [
            ("letter", f"{LINES}\nPlease respond with only the letter of the correct answer."),
            ("direct", f"{LINES}\nAnswer with the option's letter from the given choices directly."),
            ("best", f"{LINES}\nPlease directly give the best option:"),
            ("option", "Which?\nOnly return the correct answer option.\nA. red\nB. blue"),
            ("plain", LINES),
        ],
    )
    def test_instruction_and_its_place(self, prompt: str, text: str) -> None:
        assert prompt_text("Which?", self.OPTIONS, prompt) == text

    def test_mme_opens_with_the_instruction_and_ends_with_a_cue(self) -> None:
        opening, rest = prompt_text("Which?", self.OPTIONS, "mme").split("\n", 1)
        assert opening.startswith("Select the best answer")
        assert rest == f"{self.LINES}\nThe best answer is:"

    def test_the_default_is_the_prompt_of_training(self) -> None:
        expected = multiple_choice_prompt("Which? ", [" red", "blue "])
        assert prompt_text("Which? ", [" red", "blue "]) == expected
        assert Question("q", Path("v.mp4"), "Which? ", (" red", "blue "), 0).text([0.0]) == expected

    def test_subtitles_come_first(self, tmp_path: Path) -> None:
        subtitles = Subtitles(tmp_path / "v.srt")
        subtitles.path.write_text("1\n00:00:01,000 --> 00:00:02,000\nhello")
        question = Question(
            "q", Path("v.mp4"), "Which?", self.OPTIONS, 0, prompt="plain", subtitles=subtitles
        )
        assert question.text([0.0, 0.5]) == f"Subtitles:\n1.0 - 2.0 hello\n{self.LINES}"
        assert question.text([9.0]) == self.LINES

    def test_unknown_prompts_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"benchmark\.prompt is 'short', must be 'letter' or "):
            TableBenchmark("own", prompt="short")
        assert set(PROMPTS) == {"letter", "direct", "best", "option", "mme", "plain"}
