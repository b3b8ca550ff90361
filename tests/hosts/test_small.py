"""The larger model: its sizes, where its weights come from, its curriculum and its settings."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import load_file
from transformers import AutoTokenizer, Molmo2Config, Molmo2ForConditionalGeneration

from stts import STTSConfig
from stts.curriculum.scenes import Scene, load_scenes
from stts.curriculum.stages import Curriculum, Stage, StageRun, run_curriculum
from stts.data import Collator, VideoQADataset
from stts.data.evidence import evidence_windows
from stts.data.processors.molmo2 import VideoProcessor
from stts.data.synthetic.clips import make_clip
from stts.data.synthetic.spec import SyntheticSpec
from stts.hosts.folders import ModelSpec, find_folder
from stts.hosts.load import load_model
from stts.hosts.sizes import SIZES, SMALL, TINY, Sizes
from stts.hosts.tiny import SHIPPED, build_config, make_tiny
from stts.settings.launch import CONFIG_DIR, explain
from stts.settings.typed import expect_keys, from_dict
from stts.train.config import LearningRates, TrainConfig

REDUCED = dataclasses.replace(
    SMALL,
    vision_width=32,
    vision_mlp=32,
    vision_blocks=6,
    features=(5, 4),
    llm_width=32,
    llm_mlp=32,
    llm_layers=2,
)
"""The shape of small, fit for a test."""


@pytest.fixture(autouse=True)
def reduced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "small", REDUCED)


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("models") / "small", sizes=REDUCED)


@pytest.fixture(scope="module")
def scenes(clips: Path, small_folder: Path) -> list[Scene]:
    return load_scenes(clips / "train.jsonl", VideoProcessor.from_pretrained(small_folder))


def composed(name: str, *overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return OmegaConf.to_container(compose(name, list(overrides)), resolve=True, throw_on_missing=True)


def curriculum_of(config: dict[str, Any]) -> Curriculum:
    names = [field.name for field in dataclasses.fields(Curriculum)]
    return from_dict(Curriculum, {name: config[name] for name in names})


def test_small_has_some_ten_million_parameters_and_fits_the_clips(tiny_folder: Path) -> None:
    config = build_config(AutoTokenizer.from_pretrained(tiny_folder), SMALL)
    with torch.device("meta"):
        model = Molmo2ForConditionalGeneration(config)
    assert 10e6 < sum(p.numel() for p in model.parameters()) < 30e6
    vision, text = config.vision_config, config.text_config
    block = 4 * (192 + 1) * 192 + (192 + 1) * 768 + (768 + 1) * 192 + 4 * 192  # attention, mlp, norms
    patches = (3 * 4 * 4 + 1 + 18 * 18) * 192  # and their positions
    in_vit = sum(p.numel() for n, p in model.named_parameters() if n.startswith("model.vision_tower."))
    assert in_vit == 12 * block + patches
    assert vision.image_size == [SyntheticSpec().size] * 2
    assert (vision.image_size[0] // vision.patch_size // 3) ** 2 == 36
    assert min(config.adapter_config.vision_feature_layer) >= 2 / 3 * vision.num_hidden_layers
    assert (text.hidden_size, text.num_hidden_layers) == (256, 6)


def test_a_shape_lies_in_four_of_its_windows() -> None:
    spec, side = SyntheticSpec(), SMALL.image // SMALL.patch // 3
    for index in range(20):
        _, events, _ = make_clip("train", index, spec)
        for event in events:
            shown = evidence_windows([event.evidence(spec.size)], [event.slot / 2], side, side)
            assert shown.sum() == 4


def test_tiny_is_what_it_was(tiny_folder: Path) -> None:
    """Sizes and record of the tiny model are those from before there was another: its folders are found again."""
    shipped = Molmo2Config.from_pretrained(SHIPPED)
    built = build_config(AutoTokenizer.from_pretrained(SHIPPED), TINY)
    for part in ("vision_config", "adapter_config", "text_config"):
        changed = {"dtype", "transformers_version"}
        one, other = (getattr(config, part).to_dict() for config in (built, shipped))
        assert {k: v for k, v in one.items() if k not in changed} == {
            k: v for k, v in other.items() if k not in changed
        }
    made = json.loads((tiny_folder / "made.json").read_text())
    assert made["settings"] == {"tiny": 2, "words": 2, "seed": 0}
    first = load_file(tiny_folder / "model.safetensors")["lm_head.weight"][0, :3]
    torch.testing.assert_close(first, torch.tensor([-0.114906, -0.117612, -0.025575]), atol=1e-5, rtol=0)


def test_the_same_seed_gives_the_same_bytes_and_other_sizes_another_model(small_folder, tmp_path) -> None:
    weights = "model.safetensors"
    again = make_tiny(tmp_path / "again", sizes=REDUCED)
    assert (again / weights).read_bytes() == (small_folder / weights).read_bytes()
    narrow = make_tiny(again, sizes=dataclasses.replace(REDUCED, vision_mlp=16))
    assert (narrow / weights).read_bytes() != (small_folder / weights).read_bytes()
    tokens = "tokenizer.json"
    assert (narrow / tokens).read_bytes() == (SHIPPED / tokens).read_bytes()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"vision_width": 100}, "vision_width is 100, must be a multiple of 32"),
        ({"llm_width": 0}, "llm_width is 0"),
        ({"patch": 7}, "image is 72, must be a multiple of patch 7"),
        ({"features": (5, 3)}, r"features is \(5, 3\), must be blocks 4 to 5"),
        ({"vision_blocks": 5}, "must be blocks 4 to 4"),
    ],
)
def test_sizes_that_do_not_fit_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sizes(**wrong)


def test_missing_weights_say_what_makes_them(tmp_path, monkeypatch, small_folder) -> None:
    monkeypatch.chdir(tmp_path)
    spec = ModelSpec(name="small")
    with pytest.raises(
        ValueError, match=r"outputs/small/everything: make them, on a GPU, with `python scripts/"
    ):
        find_folder(spec)
    with pytest.raises(ValueError, match=r"size=small`.* with model\.pretrained=false"):
        load_model(spec, STTSConfig())
    with pytest.raises(ValueError, match=r"model\.path is 'nowhere': no such folder"):
        find_folder(ModelSpec("nowhere", "small"))
    assert not any(tmp_path.iterdir())

    random = find_folder(ModelSpec(name="small", pretrained=False, seed=3))
    assert random == tmp_path / "outputs/models/small-seed3"
    trained = Path(shutil.copytree(small_folder, "outputs/small/everything"))
    assert find_folder(spec) == trained
    assert find_folder(ModelSpec(str(small_folder), "small")) == small_folder


def test_it_is_pruned_like_any_other(small_folder: Path, clips: Path) -> None:
    model, processor = load_model(ModelSpec(str(small_folder), "small"), STTSConfig(prune_ratio=0.5))
    dataset = VideoQADataset(clips / "train.jsonl", None, processor, frames=5)
    batch = Collator(processor.pad_token_id, 0.5)([dataset[0]])
    out = model.train()(**{k: v for k, v in batch.items() if k != "ids"})
    assert out.keep_windows.numel() == 5 * 36
    assert out.keep_windows.sum() == 5 * 36 / 2
    out.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.model.vision_tower.scorer.parameters())
    assert any(p.grad.any() for p in model.model.vision_tower.scorer.parameters())


def stage(vision: float, llm: float, precision: str = "auto", **settings: float) -> Stage:
    rates = LearningRates(vision=vision, adapter=vision, llm=llm, scorer=0.0)
    train = TrainConfig(max_steps=1, batch_size=1, lr=rates, mixed_precision=precision)
    return Stage(train, **settings)


@pytest.mark.parametrize("loss", ["align_loss", "answer_loss"])
def test_bf16_sees_what_float32_sees(loss: str, small_folder: Path, scenes: list[Scene]) -> None:
    processor, losses = VideoProcessor.from_pretrained(small_folder), []
    for precision in ("auto", "bf16"):
        model = Molmo2ForConditionalGeneration.from_pretrained(small_folder)
        asked = stage(1e-3, 1e-3, precision, distance=0.3, direct_share=0.5, times=0.3, names=0.5)
        run = StageRun(model, processor, scenes, asked, np.random.default_rng(0), print)
        found, _ = getattr(run, loss)()
        found.backward()
        assert all(p.grad is None or p.grad.dtype == p.dtype == torch.float32 for p in model.parameters())
        losses.append(found.item())
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_its_curriculum_runs_and_goes_on_after_the_last_finished_stage(tmp_path: Path) -> None:
    curriculum = Curriculum(
        align=stage(1e-3, 0.0, distance=0.1),
        questions=stage(0.0, 1e-3, direct_share=1.0, times=0.3, names=0.5),
        letters=stage(0.0, 1e-3, direct_share=0.3),
        everything=stage(1e-4, 1e-4, "bf16"),
        data={"num_train": 1, "num_test": 0, "seed": 4, "questions_per_clip": 2},
        size="small",
        device="cpu",
    )
    said: list[str] = []
    last = run_curriculum(curriculum, tmp_path, said.append)
    assert last == tmp_path / "everything"
    assert Molmo2Config.from_pretrained(last).vision_config.patch_size == 4
    weights = load_file(last / "model.safetensors")
    assert all(w.dtype == torch.float32 and w.isfinite().all() for w in weights.values())
    made = json.loads((last / "made.json").read_text())["settings"]
    assert made["everything"]["train"]["mixed_precision"] == "bf16"
    assert {key: made[key] for key in ("patch", "llm_layers")} == {"patch": 4, "llm_layers": 2}

    shutil.rmtree(last)
    said.clear()
    assert run_curriculum(curriculum, tmp_path, said.append) == last
    assert [text.split(":")[0].strip() for text in said][-2:] == ["stage everything", "step 1 of 1"]
    assert len(said) == 5
    again = load_file(last / "model.safetensors")
    assert all(torch.equal(again[name], weights[name]) for name in weights)


def test_size_small_changes_the_settings_of_tiny_and_adds_none() -> None:
    tiny, small = (curriculum_of(composed("make_tiny", f"size={name}")) for name in ("tiny", "small"))
    assert tiny == curriculum_of(composed("make_tiny"))
    assert (tiny.size, tiny.device, small.size, small.device) == ("tiny", "cpu", "small", None)
    written = composed("make_tiny", "size=small")
    assert (written["output_dir"], written["install"]) == ("outputs/small", False)
    expect_keys(written, composed("make_tiny"))
    for name in ("align", "questions", "letters", "everything"):
        one, other = getattr(tiny, name).train, getattr(small, name).train
        frozen = [{part for part, rate in vars(train.lr).items() if not rate} for train in (one, other)]
        assert frozen[0] == frozen[1]
        assert other.max_steps > one.max_steps
    assert "size=small" in explain("make_tiny")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["size=small", "install=true"], "install is true, but with size=small must be false"),
        (["device=tpu"], "device is 'tpu', must be cpu, cuda or null"),
        (["+align.train.mixed_precision=fp8"], r"train\.mixed_precision is 'fp8'"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(tmp_path, monkeypatch, changes, message) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        script_main()(composed("make_tiny", *changes))
    assert not any(tmp_path.iterdir())


def test_unknown_sizes_and_devices_that_are_not_there_are_named(monkeypatch) -> None:
    config = composed("make_tiny")
    with pytest.raises(ValueError, match="size is 'huge', must be one of tiny, small"):
        curriculum_of(config | {"size": "huge"})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device is 'cuda', but torch finds none"):
        curriculum_of(config | {"device": "cuda"})


def script_main():
    path = CONFIG_DIR.parent / "scripts" / "make_tiny.py"
    spec = importlib.util.spec_from_file_location("make_tiny_script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.mark.parametrize("name", ["train", "eval", "demo", "accuracy", "sweep", "visualize"])
def test_every_command_takes_model_small(name: str) -> None:
    spec = from_dict(ModelSpec, composed(name, "model=small")["model"], "model")
    assert (spec.name, spec.path, spec.pretrained) == ("small", None, True)
    assert all(spec.lr[part] > 0 for part in ("vision", "adapter", "llm", "scorer"))
    random = from_dict(ModelSpec, composed(name, "model=small", "model.pretrained=false")["model"], "model")
    assert not random.pretrained
