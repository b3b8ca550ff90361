"""A run as a whole: what it leaves behind, and that it goes on from whatever it finds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from stts import STTSConfig
from stts.data import VideoQADataset
from stts.hosts.folders import ModelSpec
from stts.hosts.load import load_model
from stts.train.loop import TrainConfig, WandbConfig, train
from stts.train.model_card import read_front_matter
from stts.train.signals import end_on_sigterm
from tests.helpers.paths import ROOT

# clocks, and what a process remembers only while it lives
TIMED = ("seconds", "tokens_per_s", "data_wait", "churn")


@pytest.fixture
def run(tiny_folder: Path, clips: Path):
    """run(output_dir, ...) trains the same tiny model from the same weights and returns its losses and weights."""

    def go(output_dir: Path, wandb: WandbConfig | None = None, **changes) -> tuple[list[dict], bytes]:
        torch.manual_seed(0)
        model, processor = load_model(ModelSpec(str(tiny_folder)), STTSConfig())
        dataset = VideoQADataset(clips / "train.jsonl", None, processor, frames=4)
        settings = {"max_steps": 4, "batch_size": 2, "num_workers": 0, "save_every": 1, "keep": 3}
        train(model, processor, dataset, TrainConfig(**settings | changes), output_dir, wandb=wandb)
        rows = map(json.loads, (output_dir / "metrics.jsonl").read_text().splitlines())
        kept = [{k: v for k, v in row.items() if k not in TIMED} for row in rows]
        return kept, (output_dir / "model" / "model.safetensors").read_bytes()

    return go


def test_a_run_leaves_curves_pictures_a_card_and_its_starts(run, tmp_path):
    run(tmp_path, wandb=WandbConfig(images_every=3))
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    pictures = sorted(path.name for path in (tmp_path / "overlays").iterdir())
    assert pictures == ["step-0000003.png", "step-0000004.png"]  # and after the last step
    for folder in (tmp_path / "model", tmp_path / "checkpoints" / "step-0000004" / "model"):
        assert "| steps | 4 of 4 |" in (folder / "README.md").read_text()
        assert read_front_matter(folder)["library_name"] == "transformers"
    assert json.loads((tmp_path / "starts.jsonl").read_text())["step"] == 0
    assert not list(tmp_path.rglob(".*"))


def test_damage_to_what_a_killed_run_left_is_made_good_bit_for_bit(run, tmp_path, capsys):
    straight = run(tmp_path / "straight")
    run(tmp_path / "run")
    weights = tmp_path / "run" / "checkpoints" / "step-0000004" / "model" / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    (tmp_path / "run" / "checkpoints" / "step-0000003" / "optimizer.pt").unlink()
    (tmp_path / "run" / "checkpoints" / ".step-0000005.partial").mkdir()
    (tmp_path / "run" / "model" / "config.json").unlink()  # else it counts as finished
    (tmp_path / "run" / ".metrics.jsonl.partial").write_text("half")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    capsys.readouterr()

    assert run(tmp_path / "run") == straight
    told = capsys.readouterr().out
    assert "step-0000004/model/model.safetensors has " in told
    assert "step-0000003/optimizer.pt is missing" in told
    assert told.count("going on from") == 2
    assert "resuming after step 2 of 4" in told
    assert not list((tmp_path / "run").rglob(".*"))
    assert [json.loads(line)["step"] for line in (tmp_path / "run" / "starts.jsonl").open()] == [0, 2]


def test_a_global_batch_is_accumulated(run, tmp_path):
    expected = run(tmp_path / "a", max_steps=2, grad_accumulation=2)
    assert run(tmp_path / "b", max_steps=2, global_batch=4) == expected
    with pytest.raises(ValueError, match=r"train\.global_batch is 3"):
        run(tmp_path / "c", global_batch=3)


def test_sigterm_before_training_ends_the_process_in_good_order():
    for early in (False, True):
        if not (child := os.fork()):
            try:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                if early:
                    end_on_sigterm()
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(10)
            except SystemExit as stop:
                os._exit(stop.code)
            finally:
                os._exit(70)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (0 if early else -signal.SIGTERM)


@pytest.mark.slow
def test_the_soak_finds_nothing_lost(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "soak.py", "--cycles", "1", "--out", tmp_path / "soak"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "soak" / "soak.json").read_text())
    assert figures["cycles"] == 1
    assert figures["runs"] >= 1
    assert figures["differences"] == []
