from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from stts.eval.records import refuse_other_settings
from stts.settings.launch import CONFIG_DIR, explain
from tests.helpers.painted_letters import (
    read_lines,
    without_time,
)
from tests.helpers.paths import DATA, ROOT
from tests.helpers.scripts import run_script, run_script_in_two_processes


class TestScript:
    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("prune_ratio=1.4", "prune_ratio is 1.4, must be in [0, 1)"),
            ("prune_ration=0.4", "Could not override 'prune_ration'"),
            ("frames=0", "frames is 0, must be at least 1"),
            ("benchmark=videomme", "videomme/test-00000-of-00001.parquet"),
            ("checkpoint=nowhere", "checkpoint is 'nowhere'"),
        ],
    )
    def test_mistakes_are_told_at_once(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture,
        override: str,
        message: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["eval.py", override])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / "scripts/eval.py"), run_name="__main__")
        told = capsys.readouterr()
        assert stop.value.code == 2, told.err
        assert message in told.err + told.out
        assert "Traceback" not in told.err
        assert not (tmp_path / "outputs").exists(), "no clip, model or folder was made"

    def test_torch_is_not_loaded_before_the_checks(self, tmp_path: Path) -> None:
        (tmp_path / "torch.py").write_text("raise SystemExit('torch was loaded')")
        environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
        command = [sys.executable, str(ROOT / "scripts/eval.py"), "benchmark=videomme"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
        )
        assert "needs files that are not there" in done.stderr

    def test_help_explains_every_key(self) -> None:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            config = OmegaConf.to_container(compose("eval"))
        text = explain("eval")
        for key in ("prune_ratio", "policy", "frames", "checkpoint", "seed", "output_dir"):
            assert key in config
            assert f"\n  {key} " in text
        for group in ("video", "stts", "eval"):
            assert all(f"\n  {group}.{key} " in text for key in config[group])

    def run(self, monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> None:
        assert run_script(monkeypatch, folder, "eval", *arguments) == 0

    @pytest.mark.slow
    @pytest.mark.parametrize("mode", ["logits", "generate"])
    def test_the_tiny_model_on_generated_clips(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, mode: str
    ) -> None:
        clips = ["data.num_test=3", "data.num_train=1"]
        self.run(monkeypatch, tmp_path, *clips, f"eval.mode={mode}", "policy=temporal")
        (folder,) = (tmp_path / "outputs/eval/synthetic").iterdir()
        results = json.loads((folder / "results.json").read_text())
        lines = read_lines(folder)
        assert results["n"] == len(lines) == 12
        assert results["accuracy"] == pytest.approx(np.mean([line["correct"] for line in lines]))
        assert results["kept"] == pytest.approx(0.5)
        assert 0 <= results["evidence_recall"] <= 1
        assert sum(counts["n"] for counts in results["by_category"].values()) == 12
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert (config["policy"], config["data"]["num_test"]) == ("temporal", 3)
        assert "accuracy" in capsys.readouterr().out
        self.run(monkeypatch, tmp_path, *clips, f"eval.mode={mode}", "policy=temporal")
        assert read_lines(folder) == lines, "the same command again asks nothing"

    @pytest.mark.slow
    def test_killed_and_gone_on_with_by_two_processes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One process, killed -9 after its first predictions; two go on; a run that never stopped."""
        settings = ["data.num_test=10", "data.num_train=1", "policy=random", "eval.batch_size=2", "frames=12"]
        self.run(monkeypatch, tmp_path, *settings, "output_dir=whole")
        folder = tmp_path / "parts"
        said = run_script_in_two_processes(tmp_path, 1, "eval", *settings, "output_dir=parts")
        assert said.count("2 processes") == said.count("written to parts") == 1, said
        assert (folder / "results.json").read_bytes() == (tmp_path / "whole/results.json").read_bytes()
        assert without_time(read_lines(folder)) == without_time(read_lines(tmp_path / "whole"))
        assert not list(folder.glob("predictions-*"))

    @pytest.mark.slow
    def test_padding_changes_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        clips = ["data.num_test=2", "data.num_train=1", "prune_ratio=0.6", "policy=temporal"]
        self.run(monkeypatch, tmp_path, *clips, "output_dir=batched", "eval.batch_size=3")
        self.run(monkeypatch, tmp_path, *clips, "output_dir=alone", "eval.batch_size=1")
        batched, alone = read_lines(tmp_path / "batched"), read_lines(tmp_path / "alone")
        for one, other in zip(batched, alone, strict=True):
            assert one["logits"] == pytest.approx(other["logits"], abs=1e-3)
            assert one["evidence_recall"] == other["evidence_recall"]


def test_an_evaluation_of_before_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that an earlier version began: its settings.json, and predictions of the first batch."""
    shutil.copytree(DATA / "earlier_evaluation", tmp_path / "out")
    before = json.loads((tmp_path / "out/settings.json").read_text())
    model = ["model.path=base", "checkpoint=run/checkpoints/step-0000002/model"]
    data = ["data=jsonl", "data.test_annotations=clips/test.jsonl", "data.root=clips"]
    asked = [*model, *data, "frames=4", "eval.batch_size=2", f"output_dir={tmp_path / 'out'}"]
    recorded = read_lines(tmp_path / "out")
    assert run_script(monkeypatch, DATA / "earlier_run", "eval", *asked) == 0
    expected = json.loads((tmp_path / "out/expected.json").read_text())
    lines = read_lines(tmp_path / "out")
    assert lines[: len(recorded)] == recorded, "not asked again"
    assert [line["predicted"] for line in lines] == expected["predicted"]
    results = json.loads((tmp_path / "out/results.json").read_text())
    settings = results.pop("settings")
    assert results == expected["results"]
    assert list(settings)[:12] == list(before)[:12]
    assert all(before[key] == value for key, value in settings.items() if key in before)
    with pytest.raises(ValueError, match="sampling is 'time' there and 'transformers' now"):
        refuse_other_settings(tmp_path / "out", settings | {"sampling": "transformers"})
