"""Clips and a processor that all tests of asking share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stts.data import VideoProcessor, write_video
from tests.helpers.painted_letters import GREYS, SECONDS, Setting


@pytest.fixture(scope="session")
def setting(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Setting:
    folder = tmp_path_factory.mktemp("painted")
    videos = []
    for number, seconds in enumerate(SECONDS):
        videos.append(folder / f"clip{number}.mp4")
        frames = [np.full((48, 64, 3), GREYS[number % 4], np.uint8) for _ in range(int(8 * seconds))]
        write_video(videos[-1], frames, fps=8)
    return Setting(VideoProcessor.from_pretrained(tiny_folder), videos, tiny_folder)
