"""What a visitor can take home: the files that scripts/visualize.py writes, and its command line."""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Sequence
from pathlib import Path

import yaml

from ..hosts.sizes import OWN_MODELS
from ..settings.arguments import as_value
from ..settings.config_files import CONFIG_DIR
from ..viz.contact_sheet import draw_sheet
from ..viz.kept_video import KeptVideo
from ..viz.movie import write_film
from .jobs import Job
from .models import Loaded, Setting

DRAWING = threading.Lock()
"""matplotlib's fonts are everybody's."""


def draw_files(seen: KeptVideo, title: str, folder: Path, job: Job) -> dict[str, bytes]:
    """The contact sheet and the film, by the names that visualize.py gives them; the folder is left empty."""
    job.hold(DRAWING, "waiting for another visitor's pictures")
    try:
        job.tell("drawing the picture")
        paths = [draw_sheet(seen, folder / "sheet.png", title)]
        job.tell("drawing the film", 0.3)
        paths.append(write_film(seen, folder / "overlay.mp4", title))
    finally:
        DRAWING.release()
    files = {path.name: path.read_bytes() for path in paths}
    for path in paths:
        path.unlink()
    return files


def command(
    loaded: Loaded,
    setting: Setting,
    video: str,
    frames: int,
    seed: int = 0,
    question: str = "",
    options: Sequence[str] = (),
) -> str:
    """How scripts/visualize.py draws the same, ready for a shell. video: where it lies for whoever copies this."""
    settings = {
        **_of_model(loaded.given),
        "video": video,
        "policy": setting.policy,
        "prune_ratio": f"{setting.prune_ratio:g}",
        "frames": frames,
        "question": question or None,
        "options": list(options) or None,
        "seed": seed or None,
    }
    given = [f"{key}={as_value(value)}" for key, value in settings.items() if value is not None]
    return shlex.join(["python", "scripts/visualize.py", *given])


def _of_model(name: str) -> dict[str, str]:
    """The settings by which visualize.py takes what stts.load takes by a name; folders as seen from here."""
    if name in OWN_MODELS:
        return {} if name == "tiny" else {"model": name}
    if Path(name).expanduser().is_dir():
        return {"checkpoint": as_seen_from_here(Path(name).expanduser())}
    for file in sorted((CONFIG_DIR / "model").glob("*.yaml")):
        if yaml.safe_load(file.read_text())["path"] == name:
            return {"model": file.stem}
    return {"model": "molmo2_4b" if "molmo" in name.lower() else "qwen3_vl_4b", "model.path": name}


def as_seen_from_here(path: Path) -> str:
    """A path below the working folder; of others the name alone: where they lie is nobody's business."""
    below = os.path.relpath(path.absolute())
    return path.name if below.startswith("..") else below
