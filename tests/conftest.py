"""Shared fixtures: the tiny model and a handful of clips, made once a session."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests are small: more threads only wait for each other
os.environ["WANDB_MODE"] = "offline"  # should a test ever start it by mistake
os.environ["HF_HUB_OFFLINE"] = "1"

from pathlib import Path

import pytest

os.environ["PYTHONPATH"] = os.pathsep.join(  # scripts of helpers/ import each other
    filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])
)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, plain Molmo2 without a scorer."""
    from stts.hosts.tiny import make_tiny

    return make_tiny(tmp_path_factory.mktemp("models") / "tiny-seed0")


@pytest.fixture(scope="session")
def tiny_qwen3_vl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Qwen3-VL with random weights, plain as well."""
    from stts.hosts.tiny_qwen3_vl import make_tiny_qwen3_vl

    return make_tiny_qwen3_vl(tmp_path_factory.mktemp("models") / "tiny_qwen3_vl-seed0")


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training clips of 2 s with 3 questions each, two test clips."""
    from stts.data.synthetic.clips import make_synthetic

    folder = tmp_path_factory.mktemp("data") / "clips"
    return make_synthetic(folder, num_train=6, num_test=2, slots=5, questions_per_clip=3, seed=1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
