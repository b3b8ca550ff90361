"""The experiment files: the recipe they share, what their names say, and that their launch lines compose."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from stts.settings.launch import CONFIG_DIR
from stts.train.config import LearningRates, TrainConfig
from stts.train.run_config import RunConfig

FILES = sorted((CONFIG_DIR / "experiment").glob("*.yaml"))
MODELS = {
    "molmo2_4b": "allenai/Molmo2-4B",
    "molmo2_8b": "allenai/Molmo2-8B",
    "molmo2_o_7b": "allenai/Molmo2-O-7B",
}


def launch_line(path: Path) -> list[str]:
    """The words of the command a file begins with."""
    (line,) = (line for line in path.read_text().splitlines() if "scripts/train.py" in line)
    assert line.startswith("#   ")
    return shlex.split(line.removeprefix("#"))


def composed(overrides: list[str]) -> RunConfig:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = compose("train", overrides)
    values: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return RunConfig.from_dict(values)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_launch_line_composes_into_what_the_name_says(path):
    words = launch_line(path)
    overrides = words[words.index("scripts/train.py") + 1 :]
    assert overrides[0] == f"experiment={path.stem}"
    run = composed(overrides)
    model, ratio = re.fullmatch(r"(\w+?)_video_(\d\d)", path.stem).groups()
    assert run.model.path == MODELS[model]
    assert run.stts.prune_ratio == int(ratio) / 100
    assert run.stts.policy == "scorer"
    assert run.stts.insert_after == 3
    assert run.video.frames == 128
    assert run.train.max_tokens == 2 * 9686
    assert run.train.parallel.name == "fsdp"
    assert run.data.annotations == "train.jsonl"
    assert (run.train.max_steps, run.train.global_batch) == (6250, 64)
    assert run.train.lr == LearningRates(vision=5e-6, adapter=5e-6, llm=1e-5, scorer=1e-4)
    assert (run.train.betas, run.train.weight_decay, run.train.warmup_steps) == ((0.9, 0.95), 0.0, 200)


def test_the_other_cells_of_the_paper_are_the_keys_that_each_file_names():
    assert {path.stem for path in FILES} == {f"{model}_video_50" for model in MODELS}
    for path in FILES:
        named = re.findall(r"\b[a-z._]+=[\d.]+", path.read_text().splitlines()[1])
        assert named == ["prune_ratio=0.3", "prune_ratio=0.8", "frames=64", "train.max_tokens=9686"]
        for ratio in named[:2]:
            run = composed([f"experiment={path.stem}", "data.annotations=train.jsonl", ratio, *named[2:]])
            assert run.stts.prune_ratio == float(ratio.partition("=")[2])
            assert (run.video.frames, run.train.max_tokens) == (64, 9686)


def test_what_is_a_guess_says_so():
    recipe = (CONFIG_DIR / "recipe" / "video.yaml").read_text()
    for key in ("scorer:", "pack_buffer:"):
        (line,) = (line for line in recipe.splitlines() if key in line and not line.startswith("#"))
        assert "guess" in line
    for path in FILES:
        assert "max_tokens: 19372 # of one row, counted after pruning; a guess" in path.read_text()


@pytest.mark.parametrize("devices", [1, 2, 4, 8, 16, 32])
def test_the_global_batch_does_not_depend_on_the_number_of_devices(devices):
    config = TrainConfig(batch_size=2, global_batch=64).for_devices(devices)
    assert config.batch_size * config.grad_accumulation * devices == 64
    assert config.for_devices(devices) is config  # done once


@pytest.mark.parametrize("devices", [3, 5, 64])
def test_devices_that_cannot_share_a_global_batch_are_refused(devices):
    with pytest.raises(ValueError, match=rf"global_batch is 64, .* = 2 x {devices} = {2 * devices}$"):
        TrainConfig(batch_size=2, global_batch=64).for_devices(devices)


def test_a_global_batch_and_accumulation_exclude_each_other():
    with pytest.raises(ValueError, match=r"train\.global_batch is 64, .*grad_accumulation left at 1"):
        TrainConfig(global_batch=64, grad_accumulation=2)
    with pytest.raises(ValueError, match=r"train\.global_batch is 0"):
        TrainConfig(global_batch=0)
    assert TrainConfig(grad_accumulation=3).for_devices(5).grad_accumulation == 3
