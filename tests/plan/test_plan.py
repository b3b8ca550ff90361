"""Plans are held against a dry run of the real training step, and say what a user asks first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from stts import STTSConfig
from stts.hosts.folders import ModelSpec
from stts.plan.allocations import Allocations
from stts.plan.cost import advice, plan
from stts.plan.gpus import GPUS, fits, read_gpus
from stts.plan.lengths import alike, read_lengths
from stts.plan.memory import Setup, measure
from stts.plan.models import FAMILIES, SIZES, config_of, read_config
from tests.helpers.long import long
from tests.helpers.paths import ROOT
from tests.helpers.scripts import run_script

ROWS = json.loads((ROOT / "tests" / "data" / "dry_run_memory.json").read_text())["rows"]
QUICK = [("allenai/Molmo2-4B", 64, 0.8)]
"""(model, frames, prune_ratio) of rows that every run of the suite looks at."""


def held_against(row: dict, recompute: bool) -> None:
    config = read_config(row["model"])
    shape = FAMILIES[config.model_type].shape(config, row["frames"])
    assert shape.tokens(row["prune_ratio"]) == row["tokens"]
    setup = Setup("fsdp", gpus=8, recompute=recompute, all_logits=True)
    found = measure(config, STTSConfig(prune_ratio=row["prune_ratio"]), shape, setup).total / 1e9
    assert found == pytest.approx(row["recomputed_gb" if recompute else "peak_gb"], rel=0.05)


def of_row(row: dict) -> tuple[str, int, float]:
    return row["model"], row["frames"], row["prune_ratio"]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("row", [row for row in ROWS if of_row(row) in QUICK], ids=of_row)
def test_memory_is_that_of_the_dry_run(row: dict, recompute: bool) -> None:
    held_against(row, recompute)


@long
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("row", [row for row in ROWS if of_row(row) not in QUICK], ids=of_row)
def test_memory_is_that_of_the_dry_run_everywhere(row: dict, recompute: bool) -> None:
    held_against(row, recompute)


@pytest.mark.parametrize("name", ["tiny", "tiny_qwen3_vl"])
def test_every_host_that_has_its_arithmetic_can_be_planned_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where a model of random weights is written
    config = config_of(ModelSpec(name=name, pretrained=name == "tiny"))
    shape = FAMILIES[config.model_type].shape(config, 8)
    stts, setup = STTSConfig(prune_ratio=0.5), Setup("ddp", batch_size=2)
    half, unpruned = (plan(config, stts.replace(prune_ratio=ratio), shape, setup) for ratio in (0.5, 0.0))
    assert half.tokens < unpruned.tokens
    assert half.teraflop < unpruned.teraflop
    assert half.needed.parts["activations"] < unpruned.needed.parts["activations"]
    assert half.needed.parts["weights"] == 4 * half.needed.parameters
    low, high = half.seconds(GPUS["H100"])
    assert 0 < low < high
    again = plan(config, stts, shape, Setup("ddp", batch_size=2, recompute=True))
    assert again.needed.parts["activations"] < half.needed.parts["activations"]
    every = plan(config, stts, shape, Setup("ddp", batch_size=2, all_logits=True))
    assert every.needed.parts["logits"] > half.needed.parts.get("logits", 0)


def test_released_models_have_the_parameters_they_say() -> None:
    from stts.plan.models import build

    for path, billions in zip(SIZES, (4.86, 8.67, 2.13, 4.44, 8.77), strict=True):
        model = build(read_config(path), STTSConfig(), torch.bfloat16)
        assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, rel=0.02)


def test_cards_hold_what_they_hold() -> None:
    assert fits(60, GPUS["H100"]) == "yes"
    assert fits(75, GPUS["H100"]) == "too close to say"
    assert fits(85, GPUS["H100"]) == "no"


def test_advice_leads_to_less() -> None:
    config = config_of(ModelSpec(name="tiny"))
    shape, stts = FAMILIES["molmo2"].shape(config, 4), STTSConfig(prune_ratio=0.5)
    planned = plan(config, stts, shape, Setup("ddp", batch_size=2))
    small = GPUS["H100"].__class__(1e-3, 1.0, 1.0)
    said = " ".join(advice(config, stts, shape, planned, small))
    for word in ("gradient_checkpointing", "batch_size=1", "parallel=fsdp", "lora", "prune_ratio"):
        assert word in said
    assert advice(config, stts, shape, planned, GPUS["H100"]) == []


def test_rates_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    path.write_text('{"H200": {"teraflops": 480}}')
    gpus, measured = read_gpus(str(path))
    assert measured
    assert gpus["H200"].teraflops == 480
    assert gpus["H200"].terabytes == GPUS["H200"].terabytes
    for text in (
        '{"H200": {"teraflops": -1}}',
        '{"mine": {"teraflops": 1}}',
        "[]",
        "{}",
        '{"H200": {"speed": 1}}',
        "",
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"rates=.*rates.json.*must be like"):
            read_gpus(str(path))


def test_an_epoch_is_made_of_the_lengths_that_were_found(tmp_path: Path) -> None:
    config, path = config_of(ModelSpec(name="tiny")), tmp_path / "lengths.json"
    shape = FAMILIES["molmo2"].shape(config, 8)
    path.write_text(json.dumps({"frames": [8] * 3, "tokens": [shape.tokens()] * 3, "supervised": [2] * 3}))
    examples = read_lengths(str(path), config, 8)
    assert (examples.number, examples.frames, examples.longest.units) == (3, 24, 8)
    assert examples.mean(config, 0.5, 8) == pytest.approx(1)
    assert alike(shape, 5).number == 5
    path.write_text(json.dumps({"frames": [8, 2, 0], "tokens": [shape.tokens(), 90, 40]}))
    mixed = read_lengths(str(path), config, 8)
    assert 0 < mixed.mean(config, 0.5, 8) < 1
    for text in ("{}", '{"frames": [], "tokens": []}', "no"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"lengths.*check_data.py check.lengths="):
            read_lengths(str(path), config, 8)


def test_allocations_end_with_their_tensors() -> None:
    with Allocations() as allocations:
        allocations.start()
        x = torch.empty(1000, device="meta")  # 4,000 bytes, rounded up to 4,096
        y = x.view(10, 100) + 1
        assert allocations.peak == 2 * 4096
        del x, y
        z = torch.empty(100, device="meta")
        assert sum(allocations.held.values()) == 512
        assert allocations.peak == 2 * 4096
        del z


def test_the_script_says_whether_it_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    arguments = ("model=tiny", "frames=4", "gpus=2", "examples=1000")
    assert run_script(monkeypatch, tmp_path, "plan", *arguments) == 0
    printed = capsys.readouterr().out
    for words in ("tokens to the LLM", "50% pruned", "unpruned", "H200", "guessed", "2 GPUs", "1,000 videos"):
        assert words in printed
