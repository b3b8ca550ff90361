"""The clips that are there at the start: the demo's generated and filmed one, and that of the settings."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..comparison.demo import FILMED_OPTIONS, FILMED_QUESTION, filmed_clip
from ..data.synthetic.clips import make_synthetic
from .config import AppConfig

QUESTION = "What happens in this video?"


@dataclass(frozen=True)
class StartClip:
    """A clip, and what may be asked about it."""

    path: Path
    question: str = QUESTION
    options: tuple[str, ...] = ()


def start_clips(config: AppConfig) -> dict[str, StartClip]:
    """By what the page calls them, the one to begin with first. What is not there yet is put into output_dir."""
    folder, clips = Path(config.output_dir).expanduser(), {}
    if config.video is not None:
        clips[config.video_path.name] = StartClip(config.video_path)
    made = make_synthetic(folder / "clips", num_train=1, num_test=1)
    row = json.loads((made / "test.jsonl").read_text(encoding="utf-8").splitlines()[0])
    clips["generated clip"] = StartClip(made / row["video"], row["question"], tuple(row["options"]))
    if (filmed := filmed_clip()) is not None:
        path = folder / filmed.name
        if not path.exists():
            shutil.copyfile(filmed, path)
        clips["filmed street"] = StartClip(path, FILMED_QUESTION, FILMED_OPTIONS)
    return clips
