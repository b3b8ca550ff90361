"""What the task teaches is the same however a step is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stts import STTSConfig
from stts.data import Collator, VideoQADataset
from stts.hosts.folders import ModelSpec
from stts.hosts.load import load_model
from stts.train.config import LoraSettings
from stts.train.trainer import Trainer
from tests.helpers.runs import config

TAUGHT = {"relevance_weight": 1.0, "novelty_power": 2.0, "bias_floor": 1.0, "aux_loss_weight": 0.0}
TOLD = ("relevance_loss", "relevance_mean", "relevance_std", "relevance_corr")


@pytest.fixture(scope="module")
def take_step(tiny_folder: Path, clips: Path, tmp_path_factory):
    """take_step(settings of TrainConfig) -> the row of one step, and what became of the scorer."""

    def take(frames: int = 4, **changes: Any) -> tuple[dict, dict[str, torch.Tensor]]:
        torch.manual_seed(0)
        model, processor = load_model(ModelSpec(str(tiny_folder)), STTSConfig(**TAUGHT))
        dataset = VideoQADataset(clips / "train.jsonl", None, processor, frames=frames)
        settings = config(warmup_steps=0, **changes)
        trainer = Trainer(model, processor, settings, tmp_path_factory.mktemp("run"))
        collate = Collator(processor.pad_token_id, 0.5, settings.max_tokens)
        before = {name: p.detach().clone() for name, p in model.host.scorer.named_parameters()}
        trainer.step([collate([dataset[i] for i in range(2)])])
        after = dict(model.host.scorer.named_parameters())
        moved = {name: after[name].detach() - x for name, x in before.items()}
        return trainer.read_metrics()[0], moved

    return take


@pytest.fixture(scope="module")
def straight(take_step):
    return take_step()


def test_what_relevance_said_is_in_the_metrics(straight):
    row, moved = straight
    assert row["loss"] == pytest.approx(row["lm_loss"] + row["relevance_loss"])
    assert 0 < row["relevance_mean"] < 1
    assert row["relevance_std"] > 0.05
    assert -1 <= row["relevance_corr"] <= 1
    assert all(x.any() for x in moved.values())


@pytest.mark.parametrize("change", [{"gradient_checkpointing": True}, {"max_tokens": 900}])
def test_checkpoints_and_packed_rows_teach_the_same(take_step, straight, change):
    row, moved = take_step(**change)
    for name in ("grad_norm", *TOLD):
        assert row[name] == pytest.approx(straight[0][name], rel=2e-3), name
    assert moved.keys() == straight[1].keys()


@pytest.mark.parametrize(
    "change",
    [
        {"mixed_precision": "bf16"},
        {"vit": False, "adapter": False, "lora": LoraSettings(rank=4)},
        {"llm": False},
    ],
)
def test_half_precision_adapters_and_frozen_parts_still_teach(take_step, straight, change):
    row, moved = take_step(**change)
    for name in TOLD[:3]:
        assert row[name] == pytest.approx(straight[0][name], rel=0.1), name
    assert all(x.any() for x in moved.values())


def test_nothing_is_taught_where_only_first_frames_stay(take_step):
    row, _ = take_step(frames=1)
    assert row["relevance_mean"] is None
    assert row["relevance_loss"] == 0
