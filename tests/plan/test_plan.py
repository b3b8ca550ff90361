"""Plans are held against a dry run of the real training step, and say what a user asks first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from stts import STTSConfig
from stts.hosts.flops import FRAME_MARKERS, multiply_adds
from stts.hosts.folders import ModelSpec
from stts.plan.allocations import Allocations
from stts.plan.cost import advice, plan
from stts.plan.gpus import GPUS, Gpu, fits, read_gpus
from stts.plan.lengths import alike, read_lengths
from stts.plan.memory import Setup, measure
from stts.plan.models import ANSWER, Model, find_model
from stts.plan.sizes import SIZES
from stts.train.config import LearningRates, LoraSettings, TrainConfig
from stts.train.planned import adapters_for, preparing, videos_of
from tests.helpers.long import long
from tests.helpers.paths import ROOT
from tests.helpers.planned import check_less_is_needed
from tests.helpers.scripts import run_script

DRY_RUN = json.loads((ROOT / "tests" / "data" / "dry_run_memory.json").read_text())
ROWS = DRY_RUN["rows"] + DRY_RUN["one_gpu"]
QUICK = [("allenai/Molmo2-4B", 64, 0.8), ("OpenGVLab/InternVL3-1B-hf", 32, 0.5)]
"""(model, frames, prune_ratio) of rows that every run of the suite looks at."""
SIZE = (360, 640)
SMALL = Gpu(1e-3, 1.0, 1.0)
"""A card that holds nothing."""


def tiny() -> Model:
    return find_model(ModelSpec(name="tiny"))


def held_against(row: dict, recompute: bool) -> None:
    model = find_model(ModelSpec(path=row["model"]))
    shape = model.shape(row["frames"], SIZE)
    assert shape.tokens(row["prune_ratio"]) == row["tokens"]
    how = {"gpus": 1} if row in DRY_RUN["one_gpu"] else {"gpus": 8, "all_logits": True}
    setup = Setup("fsdp", recompute=recompute, **how)
    found = measure(model, STTSConfig(prune_ratio=row["prune_ratio"]), shape, setup).total / 1e9
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


def test_every_model_with_settings_has_its_sizes_here() -> None:
    files = (ROOT / "configs" / "model").glob("*.yaml")
    paths = {yaml.safe_load(path.read_text())["path"] for path in files} - {None}
    assert paths == SIZES.keys()


BILLIONS = (4.86, 8.67, 7.76, 2.13, 4.44, 8.77, 4.54, 9.41, 3.75, 8.29, 2.21, 8.29, 10.29, 10.29, 1.96)
BILLIONS += (0.89, 8.03, 7.06, 0.94, 7.94, 2.25, 8.46, 4.30, 12.19, 4.80, 7.64)
"""Parameters as they are told of SIZES."""


def test_released_models_have_the_parameters_they_say() -> None:
    for path, billions in zip(SIZES, BILLIONS, strict=True):
        model = find_model(ModelSpec(path=path)).build(STTSConfig(), torch.bfloat16)
        assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, rel=0.02), path


@pytest.mark.parametrize("name", ["tiny", "tiny_qwen3_vl"])
def test_own_models_can_be_planned_for(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where a model of random weights is written
    model = find_model(ModelSpec(name=name, pretrained=name == "tiny"))
    check_less_is_needed(model, 8)
    shape, stts = model.shape(8, SIZE), STTSConfig(prune_ratio=0.5)
    kept, again, every = (
        plan(model, stts, shape, Setup("ddp", batch_size=2, **how)).needed.parts
        for how in ({}, {"recompute": True}, {"all_logits": True})
    )
    assert again["activations"] < kept["activations"]
    assert every["logits"] > kept.get("logits", 0)


def test_arithmetic_is_that_of_one_forward_and_backward_pass() -> None:
    """Twice the multiply-adds, three times those of a forward pass."""
    model, ratio = tiny(), 0.5
    stts = STTSConfig(prune_ratio=ratio)
    model.config.stts = stts.to_dict()
    shape = model.shape(8, SIZE)
    text = {"text_tokens": shape.text, "text_per_frame": shape.text_per_unit - FRAME_MARKERS}
    counted = multiply_adds(model.config, 8, ratio, **text, logits=ANSWER, backward=True).total
    assert plan(model, stts, shape, Setup("ddp")).teraflop == pytest.approx(2 * counted / 1e12)


def test_frozen_weights_have_neither_gradients_nor_moments() -> None:
    model, stts = tiny(), STTSConfig(prune_ratio=0.5)
    shape, rates = model.shape(4, SIZE), LearningRates()
    whole = plan(model, stts, shape, Setup("ddp"))
    adapted = plan(
        model, stts, shape, Setup("ddp", prepare=preparing(TrainConfig(lora=LoraSettings(rank=4))))
    )
    scorer = plan(
        model, stts, shape, Setup("ddp", prepare=preparing(TrainConfig(vit=False, adapter=False, llm=False)))
    )
    built = model.build(stts, torch.float32)
    linears = [m for layer in built.host.layers for m in layer.modules() if isinstance(m, torch.nn.Linear)]
    ranks = sum(4 * (m.in_features + m.out_features) for m in linears)
    llm = sum(
        p.numel()
        for name, p in built.named_parameters()
        if not name.startswith(sum(built.host.parts.values(), ()))
    )
    assert rates.llm
    assert adapted.needed.parameters == whole.needed.parameters + ranks
    assert adapted.needed.learned == whole.needed.parameters - llm + ranks
    assert adapted.needed.parts["moments"] == 8 * adapted.needed.learned
    assert scorer.needed.learned == sum(p.numel() for p in built.host.scorer.parameters())
    assert scorer.needed.parts.get("gradients", 0) < adapted.needed.parts["moments"]
    assert scorer.teraflop < adapted.teraflop < whole.teraflop
    sharded = plan(
        model, stts, shape, Setup("fsdp", gpus=4, prepare=preparing(TrainConfig(lora=LoraSettings(rank=4))))
    )
    assert sharded.needed.parts["moments"] == 8 * adapted.needed.learned // 4


def test_merging_adapters_counts_where_a_step_takes_less() -> None:
    model, stts = tiny(), STTSConfig(prune_ratio=0.5)
    shape = model.shape(1, SIZE)
    setup = Setup(
        "ddp",
        recompute=True,
        prepare=preparing(TrainConfig(vit=False, adapter=False, scorer=False, lora=LoraSettings(rank=1))),
    )
    parts = plan(model, stts, shape, setup).needed.parts
    linears = [m for layer in model.host.layers for m in layer.modules() if isinstance(m, torch.nn.Linear)]
    assert parts["merged"] == 4 * sum(m.weight.numel() for m in linears)


def test_cards_hold_what_they_hold() -> None:
    assert fits(60, GPUS["H100"]) == "yes"
    assert fits(75, GPUS["H100"]) == "too close to say"
    assert fits(85, GPUS["H100"]) == "no"


def test_advice_leads_to_less() -> None:
    model, stts = tiny(), STTSConfig(prune_ratio=0.5)
    shape = model.shape(4, SIZE)
    planned = plan(model, stts, shape, Setup("ddp", batch_size=2))
    adapters = adapters_for(TrainConfig())
    said = advice(model, stts, shape, planned, SMALL, adapters)
    words = ("gradient_checkpointing", "lora", "both", "fewer videos", "parallel=fsdp", "prune_ratio")
    for line, word in zip(said, words, strict=True):
        assert word in line
    assert all("GB (no)" in line for line in said[:3])
    assert advice(model, stts, shape, planned, GPUS["H100"], adapters) == []
    assert adapters_for(TrainConfig(lora=LoraSettings())) is None


def test_rows_of_a_recipe_hold_as_many_videos_as_fit() -> None:
    assert videos_of(TrainConfig(), 1000, 64) == 1
    assert videos_of(TrainConfig(batch_size=2, max_tokens=9686, pack_buffer=32), 3168, 64) == 6
    assert videos_of(TrainConfig(batch_size=2, max_tokens=9686, max_frames=64, pack_buffer=32), 3168, 64) == 2
    assert videos_of(TrainConfig(batch_size=8, max_tokens=9686), 3168, 64) == 8


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
    model, path, stts = tiny(), tmp_path / "lengths.json", STTSConfig(prune_ratio=0.5)
    shape = model.shape(8, SIZE)
    path.write_text(json.dumps({"frames": [8] * 3, "tokens": [shape.tokens()] * 3, "supervised": [2] * 3}))
    examples = read_lengths(str(path), model, SIZE)
    assert (examples.number, examples.frames, examples.longest) == (3, 24, shape)
    assert examples.mean(model, stts, 8) == pytest.approx(1)
    assert alike(shape, 5).number == 5
    path.write_text(json.dumps({"frames": [8, 2, 0], "tokens": [shape.tokens(), 90, 40]}))
    assert 0 < read_lengths(str(path), model, SIZE).mean(model, stts, 8) < 1
    for text in ("{}", '{"frames": [], "tokens": []}', "no"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"lengths.*check_data.py check.lengths="):
            read_lengths(str(path), model, SIZE)


def test_lengths_of_frames_in_pairs_and_in_their_own_shape(tmp_path: Path) -> None:
    """Files count frames; tokens tell how large they were."""
    model, path = find_model(ModelSpec(path="Qwen/Qwen3-VL-2B-Instruct")), tmp_path / "lengths.json"
    tokens = [16 * (220 + 10) + 64, 16 * (60 + 10) + 64]
    path.write_text(json.dumps({"frames": [32, 32], "tokens": tokens}))
    examples = read_lengths(str(path), model, SIZE)
    assert {shape.units for shape in examples.counts} == {16}
    assert examples.longest.grid == (22, 40)
    assert sorted(shape.tokens() for shape in examples.counts) == pytest.approx(sorted(tokens), abs=20)


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
    arguments = ("model=tiny", "frames=4", "gpus=2", "examples=1000", "train.lora={rank: 2}")
    assert run_script(monkeypatch, tmp_path, "plan", *arguments) == 0
    printed = capsys.readouterr().out
    for words in ("tokens to the LLM", "50% pruned", "unpruned", "H200", "guessed", "2 GPUs", "1,000 videos"):
        assert words in printed
    tables = [line for line in printed.splitlines() if line[:1] in "┏┡│└┃"]
    assert len(tables) > 20
    assert max(map(len, tables)) <= 80
    assert "…" not in printed
