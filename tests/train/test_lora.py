from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Molmo2ForConditionalGeneration

from stts import STTSConfig
from stts.data import Collator, VideoQADataset
from stts.hosts.adapters import is_adapter
from stts.hosts.folders import ModelSpec
from stts.hosts.load import load_model
from stts.train.config import LoraSettings
from stts.train.loop import TrainConfig, train
from stts.train.lora import add_adapters, merged, save_adapters
from stts.train.optim import freeze
from stts.train.parallel import in_one_piece
from stts.train.run_folder import newest_checkpoint
from stts.train.tracking import Tracker

LORA = LoraSettings(rank=4, alpha=6, targets=("q_proj", "v_proj", "down_proj"))


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    monkeypatch.setattr(Tracker, "draw_curves", lambda *args, **kwargs: None)


def start(folder: Path, clips: Path):
    torch.manual_seed(0)
    model, processor = load_model(ModelSpec(str(folder)), STTSConfig())
    return model, processor, VideoQADataset(clips / "train.jsonl", None, processor, frames=3)


def config(**changes) -> TrainConfig:
    defaults = {"max_steps": 3, "batch_size": 2, "warmup_steps": 1, "num_workers": 0, "save_every": 2}
    return TrainConfig(**defaults | {"lora": LORA, "vit": False} | changes)


def logits(model, dataset) -> torch.Tensor:
    batch = {key: value for key, value in Collator(0)([dataset[0]]).items() if key != "ids"}
    with torch.no_grad():
        return model.eval()(**batch).logits


@pytest.fixture(scope="module")
def trained(tiny_folder, clips, tmp_path_factory) -> Path:
    """The folder of a run of three steps."""
    output_dir = tmp_path_factory.mktemp("lora")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tracker, "draw_curves", lambda *args, **kwargs: None)
        train(*start(tiny_folder, clips), config(), output_dir)
    return output_dir


def test_merged_weights_do_what_the_adapters_did(tiny_folder, clips):
    model, _, dataset = start(tiny_folder, clips)
    before = logits(model, dataset)
    add_adapters(model, LORA)
    torch.testing.assert_close(logits(model, dataset), before)  # at first they change nothing
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_adapter(name):
                parameter.normal_(std=0.2)
    changed = logits(model, dataset)
    assert (changed - before).abs().max() > 0.1
    whole = in_one_piece(model, merged(model.state_dict(), LORA))
    assert not any(is_adapter(name) or "base_layer" in name for name in whole.state_dict())
    torch.testing.assert_close(logits(whole, dataset), changed, atol=1e-4, rtol=1e-4)


def test_only_adapters_scorer_and_pooling_are_trained(tiny_folder, trained):
    before, after = (
        load_model(ModelSpec(str(folder)), STTSConfig())[0].state_dict()
        for folder in (tiny_folder, trained / "model")
    )
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    llm = {name for name in moved if "language_model" in name}
    assert {name.rsplit(".", 2)[1] for name in llm} == set(LORA.targets)
    assert len(llm) == len(LORA.targets) * 3  # layers of the tiny LLM
    others = {name.split(".")[1] for name in moved - llm if "scorer" not in name}
    assert others == {"multi_modal_projector"}
    assert any("scorer" in name for name in moved)


def test_folders_of_adapters_load_like_the_merged_model(tiny_folder, clips, trained):
    model, _, dataset = start(trained / "model", clips)
    expected = logits(model, dataset)
    adapters = trained / "adapter"
    for folder in (adapters, newest_checkpoint(trained) / "adapter"):
        loaded = load_model(ModelSpec(name="tiny"), STTSConfig(), checkpoint=folder)[0]
        assert type(loaded) is type(model)
        torch.testing.assert_close(logits(loaded, dataset), expected, atol=1e-5, rtol=1e-5)
    others = {name for name in load_file(adapters / "adapter_model.safetensors") if not is_adapter(name)}
    assert others == {
        f"base_model.model.{name}"
        for name in model.state_dict()
        if ".scorer." in name or "multi_modal_projector" in name
    }


@pytest.mark.parametrize("rates", [{}, {"vit": False, "scorer": False}, {"vit": False, "adapter": False}])
def test_peft_brings_all_that_was_trained(tiny_folder, clips, tmp_path, rates):
    """On the base in our class everything, merged or not; on a plain one everything it has."""
    from peft import PeftModel

    model, processor, dataset = start(tiny_folder, clips)
    model.stts = model.stts.replace(position_ids="compact")
    add_adapters(model, LORA)
    freeze(model, TrainConfig(max_steps=1, lora=LORA, **rates).rates)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    save_adapters(tmp_path, model, processor, LORA, model.state_dict())
    whole = merged(model.state_dict(), LORA)

    base = load_model(ModelSpec(str(tiny_folder)), STTSConfig(position_ids="compact"))[0]
    applied = PeftModel.from_pretrained(base, tmp_path)
    torch.testing.assert_close(logits(applied, dataset), logits(model, dataset), atol=1e-5, rtol=1e-5)
    ours = load_model(ModelSpec(str(tmp_path)), STTSConfig())[0]
    plain = Molmo2ForConditionalGeneration.from_pretrained(tiny_folder)
    plain = PeftModel.from_pretrained(plain, tmp_path).merge_and_unload().state_dict()
    assert {name for name in whole if ".scorer." not in name} == set(plain)
    for state in (applied.merge_and_unload().state_dict(), ours.state_dict(), plain):
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, whole[name], atol=1e-6, rtol=1e-6)
    readme = (tmp_path / "README.md").read_text()
    assert f"stts.load(\"{model.name_or_path}\", position_ids='compact')" in readme
    assert "brings everything but the scorer" in readme


def test_older_folders_with_the_other_weights_in_a_file_of_their_own_load(
    tiny_folder, clips, trained, tmp_path
):
    folder = Path(shutil.copytree(trained / "adapter", tmp_path / "adapter"))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"modules_to_save": None}))
    tensors = load_file(folder / "adapter_model.safetensors")
    adapters = {name: tensor for name, tensor in tensors.items() if is_adapter(name)}
    others = {name.removeprefix("base_model.model."): tensors[name] for name in set(tensors) - set(adapters)}
    save_file(adapters, folder / "adapter_model.safetensors")
    save_file(others, folder / "trained.safetensors")
    model, _, dataset = start(trained / "model", clips)
    loaded = load_model(ModelSpec(str(folder)), STTSConfig())[0]
    torch.testing.assert_close(logits(loaded, dataset), logits(model, dataset), atol=1e-5, rtol=1e-5)
    (folder / "trained.safetensors").unlink()
    with pytest.raises(ValueError, match=r"trained\.safetensors missing"):
        load_model(ModelSpec(str(folder)), STTSConfig())


@pytest.mark.parametrize("part", ["lora_A", "scorer.fc1"])
@pytest.mark.parametrize("how", ["missing", "renamed", "reshaped", "damaged"])
def test_adapters_that_are_not_whole_are_refused(trained, tmp_path, part, how):
    folder = Path(shutil.copytree(trained / "adapter", tmp_path / "adapter"))
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if part in name)
    tensor = tensors.pop(name)
    if how == "renamed":
        tensors[name.replace(part, "x_" + part)] = tensor
    if how in ("reshaped", "damaged"):
        tensors[name] = tensor[:-1].clone() if how == "reshaped" else tensor * float("nan")
    save_file(tensors, file)
    with pytest.raises(ValueError, match=str(folder)):
        load_model(ModelSpec(str(folder)), STTSConfig())


def test_a_run_with_adapters_goes_on_bit_for_bit(tiny_folder, clips, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(newest_checkpoint(tmp_path / "run"))
    assert not (
        newest_checkpoint(tmp_path / "run") / "model"
    ).exists()  # the LLM is not written again and again
    train(*start(tiny_folder, clips), config(), tmp_path / "run")
    for name in (
        "model/model.safetensors",
        "adapter/adapter_model.safetensors",
    ):
        assert (tmp_path / "run" / name).read_bytes() == (trained / name).read_bytes(), name


def test_adapters_on_adapters_load_too(clips, trained, tmp_path):
    train(*start(trained / "adapter", clips), config(max_steps=1), tmp_path)
    model, _, dataset = start(tmp_path / "model", clips)
    loaded = start(tmp_path / "adapter", clips)[0]
    torch.testing.assert_close(logits(loaded, dataset), logits(model, dataset), atol=1e-5, rtol=1e-5)


def test_mistakes_are_named(tiny_folder, clips, trained, tmp_path, monkeypatch):
    folder = tmp_path / "adapter"
    shutil.copytree(trained / "adapter", folder)
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(
        json.dumps(settings | {"base_model_name_or_path": "gone/a/b"})
    )
    with pytest.raises(ValueError, match=r"base_model_name_or_path in .* is 'gone/a/b': no such folder"):
        load_model(ModelSpec(str(folder)), STTSConfig())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": None}))
    with pytest.raises(ValueError, match="does not say what was adapted"):
        load_model(ModelSpec(str(folder)), STTSConfig())
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors missing"):
        load_model(ModelSpec(str(folder)), STTSConfig())
    with pytest.raises(ValueError, match=r"did you mean .*adapter"):
        load_model(ModelSpec(str(tmp_path)), STTSConfig())
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"train\.lora needs peft"):
        add_adapters(start(tiny_folder, clips)[0], LORA)
    with pytest.raises(ValueError, match="LoRA adapters, which need peft"):
        load_model(ModelSpec(str(trained / "adapter")), STTSConfig())


def test_a_damaged_adapter_is_passed_over(tiny_folder, clips, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    file = newest_checkpoint(tmp_path / "run") / "adapter" / "adapter_model.safetensors"
    file.write_bytes(b"x" * file.stat().st_size)
    train(*start(tiny_folder, clips), config(), tmp_path / "run")
    name = "adapter/adapter_model.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (trained / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, r"train\.lora\.rank is 0"),
        ({"alpha": 0.0}, r"train\.lora\.alpha is 0"),
        ({"dropout": 1.0}, r"train\.lora\.dropout is 1"),
        ({"targets": ("lm_head",)}, r"train\.lora\.targets is \['lm_head'\]"),
        ({"targets": ()}, r"train\.lora\.targets is \[\]"),
    ],
)
def test_settings_out_of_range_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        LoraSettings(**change)
    with pytest.raises(ValueError, match=r"train\.lora is .* must be null when the LLM is frozen"):
        TrainConfig(lora=LORA, llm=False)
