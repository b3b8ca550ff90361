"""What version 0.1 left behind, before its files were moved, still loads and goes on.

tests/data/earlier_run holds it: `base`, a tiny model as its maker wrote it; `clips`, generated; `run`, two steps of
`scripts/train.py` with a checkpoint; expected.json, the next two steps as that version went on.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

import stts
from stts.data.synthetic.clips import make_synthetic
from tests.helpers.paths import DATA, ROOT

SETTINGS = (
    "data=jsonl data.annotations=clips/train.jsonl data.test_annotations=clips/test.jsonl model.path=base "
    "stts=published model.name=before output_dir=run frames=4 prune_ratio=0.5 train.batch_size=2 train.save_every=2 "
    "train.keep=1 train.num_workers=0 train.warmup_steps=1 train.schedule=constant"
)


@pytest.fixture
def earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that may be written to, and the folder that commands are run in."""
    folder = shutil.copytree(DATA / "earlier_run", tmp_path / "earlier")
    monkeypatch.chdir(folder)
    return folder


def train(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """scripts/train.py with these arguments: its exit status."""
    path = ROOT / "scripts" / "train.py"
    spec = importlib.util.spec_from_file_location("train_script", path)
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    spec.loader.exec_module(script)
    try:
        script.launch(script.main, "train")
    except SystemExit as ended:
        return ended.code or 0
    return 0


def test_its_run_goes_on_as_it_would_have(earlier, monkeypatch):
    assert train(monkeypatch, *SETTINGS.split(), "train.max_steps=4") == 0
    rows = [json.loads(line) for line in (earlier / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for row, expected in zip(rows[2:], json.loads((earlier / "expected.json").read_text()), strict=True):
        assert {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-4)


def test_its_run_is_still_held_against_its_settings(earlier, monkeypatch, capsys):
    assert train(monkeypatch, *SETTINGS.split(), "train.max_steps=4", "train.weight_decay=0.5") == 2
    assert "train.weight_decay" in capsys.readouterr().err


def test_its_checkpoint_loads_as_a_model_that_answers(earlier):
    model, processor = stts.load(str(earlier / "run" / "checkpoints" / "step-0000002" / "model"))
    clip = stts.data.read_video(earlier / "clips" / "videos" / "test_00000.mp4", frames=4)
    assert isinstance(stts.answer(model, processor, "Which?", clip, options=("blue", "red")), str)
    assert model.stts.prune_ratio == 0.5
    assert model.last_keep_windows.float().mean() == pytest.approx(0.5, abs=0.02)  # whole windows


def test_its_clips_are_made_anew_with_the_same_questions(earlier):
    """Their encoding was not the same on every processor; what they show and ask has not changed."""
    made = json.loads((earlier / "clips" / "made.json").read_text())["settings"]
    settings = {key: value for key, value in made.items() if key != "synthetic"}
    rows = (earlier / "clips" / "train.jsonl").read_bytes()
    old = stts.data.read_video(earlier / "clips" / "videos" / "train_00000.mp4", frames=4)
    make_synthetic(earlier / "clips", **settings | {"cells": ()})
    assert (earlier / "clips" / "train.jsonl").read_bytes() == rows
    new = stts.data.read_video(earlier / "clips" / "videos" / "train_00000.mp4", frames=4)
    assert abs(new.frames.astype(float) - old.frames).mean() < 5  # grey levels of 255
