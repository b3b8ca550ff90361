"""Folders that somebody has damaged are refused by name, of whichever family the model is."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Molmo2ForConditionalGeneration, Qwen3VLForConditionalGeneration

import stts
from stts.hosts.folders import ModelSpec
from stts.hosts.load import load_model
from stts.hosts.tiny_qwen3_vl import make_tiny_qwen3_vl

PLAIN = {"molmo2": Molmo2ForConditionalGeneration, "qwen3_vl": Qwen3VLForConditionalGeneration}
VISION = {"molmo2": "model.vision_tower.", "qwen3_vl": "model.visual."}


@pytest.fixture(scope="module")
def saved(tiny_folder: Path, tmp_path_factory) -> dict[str, Path]:
    """By family: a folder that this library has saved, scorer and all."""
    root, folders = tmp_path_factory.mktemp("saved"), {}
    plain = {"molmo2": tiny_folder, "qwen3_vl": make_tiny_qwen3_vl(root / "plain")}
    for family, folder in plain.items():
        model, processor = load_model(ModelSpec(str(folder)), stts.STTSConfig())
        for part in (model, processor):
            part.save_pretrained(root / family)
        folders[family] = root / family
    return folders


@pytest.fixture(params=list(PLAIN))
def family(request) -> str:
    return request.param


@pytest.fixture
def copy(saved, family, tmp_path) -> Path:
    """A folder to break."""
    return Path(shutil.copytree(saved[family], tmp_path / "copy"))


def rewrite(folder: Path, change) -> None:
    """Change the tensors of a folder: a dict by name."""
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors", metadata={"format": "pt"})


def set_in_config(folder: Path, part: str, **values) -> None:
    config = json.loads((folder / "config.json").read_text())
    config[part] |= values
    (folder / "config.json").write_text(json.dumps(config))


def refused(folder: Path, family: str, message: str) -> None:
    """By the library's loading, and by its class."""
    with pytest.raises(ValueError, match=message):
        stts.load(str(folder))
    with pytest.raises(ValueError, match=message):
        stts.pruning(PLAIN[family]).from_pretrained(folder)


def test_a_whole_folder_loads(copy, family):
    model = stts.pruning(PLAIN[family]).from_pretrained(copy)
    for name, tensor in load_file(copy / "model.safetensors").items():
        if ".scorer." in name:
            assert torch.equal(tensor, model.host.scorer.get_parameter(name.split(".scorer.")[1]))
    plain = PLAIN[family].from_pretrained(copy).state_dict()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in plain.items())


def test_a_scorer_that_it_was_trained_with_must_be_there(copy, family):
    rewrite(copy, lambda tensors: {n: t for n, t in tensors.items() if ".scorer." not in n})
    refused(copy, family, "it was trained with a scorer .* and it has none$")


def test_a_scorer_of_another_name_is_no_scorer(copy, family):
    rewrite(copy, lambda tensors: {n.replace(".scorer.", ".old_scorer."): t for n, t in tensors.items()})
    refused(copy, family, rf"lacks 14 .*it holds {VISION[family]}old_scorer\.")


def test_half_a_scorer_is_none(copy, family):
    last = "scorer.fc3.weight"
    rewrite(copy, lambda tensors: {n: t for n, t in tensors.items() if not n.endswith(last)})
    refused(copy, family, f"lacks 1 of the model's tensors, {VISION[family]}{last}")


def test_missing_tensors_are_never_made_up(copy, family):
    rewrite(copy, lambda tensors: {n: t for n, t in tensors.items() if n != "lm_head.weight"})
    refused(copy, family, r"lacks 1 of the model's tensors, lm_head\.weight")


def test_values_that_are_no_numbers(copy, family):
    def damage(tensors):
        tensors["lm_head.weight"][3, 4] = float("nan")
        return tensors

    rewrite(copy, damage)
    refused(copy, family, r"lm_head\.weight holds values that are not finite")


def test_a_layer_more_than_the_config_has(copy, family):
    def grow(tensors):
        names = {
            n: re.sub(r"(language_model\.layers|transformer\.blocks)\.2\.", r"\1.3.", n) for n in tensors
        }
        return tensors | {new: tensors[old].clone() for old, new in names.items()}

    rewrite(copy, grow)
    refused(copy, family, r"layers\.3\..*, a layer that its config\.json does not have")


def test_sizes_that_are_not_those_of_the_weights(copy, family):
    set_in_config(copy, "text_config", intermediate_size=100)
    refused(copy, family, r"model\.safetensors does not fit its config\.json: .*100")
    set_in_config(copy, "text_config", intermediate_size=192, vocab_size=100_000)
    refused(copy, family, r"describes a model of .* parameters, its weights are")


def test_the_sizes_of_a_part_must_be_there(copy, family):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"text_config": {}}))
    with pytest.raises(ValueError, match=r"text_config is \{\}, must hold the sizes of that part"):
        stts.load(str(copy))


def test_damaged_weights(copy, family):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    refused(copy, family, f"cannot read {weights}")


def test_a_damaged_tokenizer(copy, family):
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=f"the tokenizer in {copy} .*cannot be read"):
        stts.load(str(copy))
    (copy / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=f"{copy} has no tokenizer.json"):
        stts.load(str(copy))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"deepstack_visual_indexes": [3, 9]}, r"deepstack_visual_indexes is \[3, 9\]"),
        ({"out_hidden_size": 64}, "out_hidden_size is 64 .* hidden_size 96"),
    ],
)
def test_a_qwen_whose_parts_do_not_meet(saved, tmp_path, values, message):
    folder = Path(shutil.copytree(saved["qwen3_vl"], tmp_path / "copy"))
    set_in_config(folder, "vision_config", **values)
    refused(folder, "qwen3_vl", message)
