"""Which part of a video, or of a folder of pictures, a question shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stts.data import VideoError, read_video, write_video
from stts.data.video.config import VideoConfig
from stts.eval.reading import read_clip, shown_until
from stts.eval.tasks import Question
from tests.helpers.miniatures import write_pictures
from tests.helpers.painted import encode, keep_bytes

VIDEO = VideoConfig(100, max_fps=8.0)


def ask(number: int, video: str, **changes) -> Question:
    return Question(f"q{number}", Path(video), "Which?", ("a", "b"), 0, **changes)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 frames in 3 s, each brighter than the one before."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(path, [np.full((48, 64, 3), 10 * i, np.uint8) for i in range(24)], fps=8)
    return path


class TestShownPart:
    def greys(self, clip: Path, **part) -> list[int]:
        frames = read_clip(ask(0, str(clip), **part), VIDEO, 12).frames
        return [round(frame.mean() / 10) for frame in frames]

    def test_an_end_past_the_video_is_its_end(self, clip: Path) -> None:
        assert self.greys(clip, start=2.0, end=31.5) == self.greys(clip, start=2.0) == list(range(16, 24))
        assert len(read_video(clip, 8, end=31.5).frames) == len(read_video(clip, 8).frames)  # as in training
        with pytest.raises(VideoError, match=r"start is 3\.5"):
            self.greys(clip, start=3.5, end=31.5)

    def test_an_end_inside_stays(self, clip: Path) -> None:
        assert self.greys(clip, end=1.0) == list(range(9))
        assert shown_until(ask(0, str(clip), end=1.0), "pyav") == 1.0
        assert shown_until(ask(0, "no.mp4"), "pyav") is None

    def test_the_end_frame_is_not_shown(self, clip: Path) -> None:
        assert self.greys(clip, end_frame=10) == list(range(10))
        assert self.greys(clip, end_frame=10, end=0.5) == list(range(5))
        assert self.greys(clip, end_frame=24) == self.greys(clip, end_frame=1000) == list(range(24))

    def test_a_file_that_breaks_off_is_not_taken_for_a_short_one(self, tmp_path: Path) -> None:
        options = {"options": {"g": "15", "bf": "3"}, "container_options": {"movflags": "faststart"}}
        broken = keep_bytes(encode(tmp_path / "whole.mp4", **options), tmp_path / "broken.mp4", 0.7)
        with pytest.raises(VideoError, match="is cut short"):
            read_clip(ask(0, str(broken), end=6.0), VIDEO, 12)


class TestPictures:
    @pytest.fixture
    def folder(self, clip: Path, tmp_path: Path) -> Path:
        write_pictures(tmp_path / "scene", clip)
        return tmp_path / "scene"

    def test_they_are_read_like_a_video_of_their_rate(self, folder: Path, clip: Path) -> None:
        for part in ({}, {"start": 0.5, "end": 1.25}, {"start": 2.0, "end": 3.0}, {"max_fps": 2.0}):
            options = {"max_fps": 8.0, "size": 12} | part
            pictures = read_video(folder, 100, folder_fps=8.0, **options)
            video = read_video(clip, 100, **options)
            np.testing.assert_allclose(pictures.timestamps, video.timestamps)
            assert pictures.frames.shape == video.frames.shape
            assert np.abs(pictures.frames.astype(int) - video.frames).max() <= 3
        assert len(read_video(folder, 5, folder_fps=8.0).frames) == 5

    def test_a_question_may_be_about_them(self, folder: Path) -> None:
        shown = read_clip(ask(0, str(folder), frame_fps=3.0, start=1.0, end=2.0), VIDEO, 12)
        np.testing.assert_allclose(shown.timestamps, [1, 4 / 3, 5 / 3, 2])
        assert [round(frame.mean() / 10) for frame in shown.frames] == [3, 4, 5, 6]
        whole = read_clip(ask(0, str(folder), frame_fps=8.0, start=2.0, end=99.0), VIDEO, 12)
        np.testing.assert_allclose(whole.timestamps, np.arange(16, 24) / 8)

    def test_what_cannot_be_read_is_named(self, folder: Path) -> None:
        with pytest.raises(VideoError, match=r"scene: start is 9 s.*the clip lasts 8.000 s"):
            read_clip(ask(0, str(folder), frame_fps=3.0, start=9), VIDEO, 12)
        (folder / "00001.jpg").write_bytes(b"no picture")
        with pytest.raises(VideoError, match=r"00001\.jpg"):
            read_clip(ask(0, str(folder), frame_fps=3.0), VIDEO, 12)
