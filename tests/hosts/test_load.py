from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Molmo2ForConditionalGeneration

from stts import STTSConfig, STTSMolmo2ForConditionalGeneration
from stts.data import Collator, VideoQADataset
from stts.eval.config import warn_if_untrained
from stts.hosts.folder_checks import check_finite
from stts.hosts.folders import ModelSpec, find_folder
from stts.hosts.load import load_model
from tests.helpers.released import write_released


@pytest.fixture(scope="module")
def released(tiny_folder: Path, tmp_path_factory) -> Path:
    return write_released(tmp_path_factory.mktemp("hub") / "Molmo2-Tiny", tiny_folder)


@pytest.fixture
def copy(tiny_folder: Path, tmp_path: Path) -> Path:
    """A tiny folder to break."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


def batch_of(clips: Path, processor) -> dict:
    dataset = VideoQADataset(clips / "test.jsonl", None, processor, frames=3)
    batch = Collator(processor.pad_token_id)([dataset[0], dataset[1]])
    return {key: value for key, value in batch.items() if key not in ("ids", "layout")}


def test_the_released_layout_brings_every_tensor(released, tiny_folder, clips):
    names = set(json.loads((released / "model.safetensors.index.json").read_text())["weight_map"])
    assert "model.vision_backbone.image_vit.transformer.resblocks.5.attention.wq.weight" in names
    assert "model.transformer.blocks.2.mlp.ff_proj.weight" in names
    original = Molmo2ForConditionalGeneration.from_pretrained(tiny_folder).eval()
    model, processor = load_model(ModelSpec(str(released)), STTSConfig(prune_ratio=0))

    state = {k: v for k, v in model.state_dict().items() if ".scorer." not in k}
    assert state.keys() == original.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in original.state_dict().items())

    batch = batch_of(clips, processor)
    pixels = (batch["pixel_values_videos"] / 255 - 0.5) / 0.5
    with torch.no_grad():
        expected = original(**batch | {"pixel_values_videos": pixels})
        found = model(**batch)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.loss, expected.loss, atol=1e-5, rtol=0)


def test_a_saved_model_loads_back_with_its_scorer_and_what_it_was_trained_with(released, tmp_path):
    stts = STTSConfig(position_ids="compact", scorer_hidden_dims=(24, 8), scorer_num_heads=4, insert_after=2)
    model, processor = load_model(ModelSpec(str(released)), stts)
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    again, _ = load_model(ModelSpec("not/used"), STTSConfig(prune_ratio=0.3), tmp_path / "saved")
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert again.stts == stts.replace(prune_ratio=0.3)
    with pytest.raises(ValueError, match=r"insert_after is 1, but the model .* trained with 2"):
        load_model(ModelSpec("not/used"), STTSConfig(insert_after=1), tmp_path / "saved")


def test_the_tiny_model_is_made_on_first_use_only(tmp_path):
    spec = ModelSpec(str(tmp_path / "models" / "tiny"), "tiny", seed=3)
    load_model(spec, STTSConfig())
    stamp = (tmp_path / "models" / "tiny" / "model.safetensors").stat().st_mtime_ns
    load_model(spec, STTSConfig())
    assert (tmp_path / "models" / "tiny" / "model.safetensors").stat().st_mtime_ns == stamp


def test_dtype_is_obeyed_and_auto_is_float32_without_a_gpu(tiny_folder, monkeypatch):
    model, _ = load_model(ModelSpec(str(tiny_folder), dtype="bfloat16"), STTSConfig())
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model, _ = load_model(ModelSpec(str(tiny_folder)), STTSConfig())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_fresh_scorer_follows_the_seed(tiny_folder):
    def scorer(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        model, _ = load_model(ModelSpec(str(tiny_folder)), STTSConfig())
        return torch.cat([p.flatten() for p in model.model.vision_tower.scorer.parameters()])

    assert torch.equal(scorer(1), scorer(1))
    assert not torch.equal(scorer(1), scorer(2))


def test_a_hub_model_out_of_reach_says_what_to_download_and_how_to_point_to_it():
    started = time.perf_counter()
    with pytest.raises(ValueError, match="'allenai/Molmo2-4B'") as error:
        load_model(ModelSpec("allenai/Molmo2-4B"), STTSConfig())
    assert "hf download allenai/Molmo2-4B --local-dir DIR" in str(error.value)
    assert "model.path=DIR" in str(error.value)
    assert time.perf_counter() - started < 5


def test_a_cached_hub_model_is_found_without_network(released, tmp_path, monkeypatch):
    from huggingface_hub import constants

    repo = tmp_path / "models--allenai--Molmo2-Tiny"
    shutil.copytree(released, repo / "snapshots" / "abc")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert find_folder(ModelSpec("allenai/Molmo2-Tiny")) == repo / "snapshots" / "abc"


def test_folders_that_are_no_model_are_explained(tmp_path, copy):
    for path in (tmp_path / "absent", "relative/no/where"):
        with pytest.raises(ValueError, match=r"model\.path is .*no such folder"):
            find_folder(ModelSpec(str(path)))
    with pytest.raises(ValueError, match=r"checkpoint is .*no such folder"):
        find_folder(ModelSpec("x/y"), tmp_path / "absent")
    run = tmp_path / "run"
    shutil.copytree(copy, run / "model")
    with pytest.raises(ValueError, match=f"no config.json; did you mean {run / 'model'}"):
        find_folder(ModelSpec("x/y"), run)
    (copy / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"not complete: model\.safetensors missing"):
        find_folder(ModelSpec(str(copy)))


def test_a_missing_shard_is_named(released, tmp_path):
    folder = Path(shutil.copytree(released, tmp_path / "partial"))
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model-00002-of-00002\.safetensors missing"):
        find_folder(ModelSpec(str(folder)))


def drop_tensor(folder: Path, name: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    assert tensors.pop(name) is not None
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_missing_tensors_are_never_made_up(copy, tmp_path):
    model, processor = load_model(ModelSpec(str(copy)), STTSConfig())
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    drop_tensor(copy, "lm_head.weight")
    with pytest.raises(ValueError, match=r"lacks 1 of the model's tensors, lm_head\.weight"):
        load_model(ModelSpec(str(copy)), STTSConfig())

    from safetensors import safe_open

    with safe_open(tmp_path / "saved" / "model.safetensors", "pt") as file:
        scorer = next(name for name in file.keys() if "scorer" in name)  # noqa: SIM118 (not a dict)
    drop_tensor(tmp_path / "saved", scorer)
    with pytest.raises(ValueError, match=r"lacks 1 of the model's tensors, model\.vision_tower\.scorer"):
        load_model(ModelSpec("x/y"), STTSConfig(), tmp_path / "saved")


def rewrite(folder: Path, change) -> None:
    """Tensors of a folder, renamed by change, or left out where it gives None."""
    tensors = load_file(folder / "model.safetensors")
    changed = {change(name): tensor for name, tensor in tensors.items()}
    changed.pop(None, None)
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})


def save(folder: Path, to: Path, **settings) -> Path:
    model, processor = load_model(ModelSpec(str(folder)), STTSConfig(**settings))
    model.save_pretrained(to)
    processor.save_pretrained(to)
    return to


def without_scorer(name: str) -> str | None:
    return None if ".scorer." in name else name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_scorer, "it was trained with a scorer .* and it has none$"),
        (lambda name: name.replace(".scorer.", ".scorer_old."), r"holds model\.vision_tower\.scorer_old\."),
        (lambda name: name.replace(".scorer.", ".judge."), r"holds model\.vision_tower\.judge\."),
    ],
)
def test_a_folder_that_says_it_was_trained_with_a_scorer_must_have_it(tiny_folder, tmp_path, change, message):
    saved = save(tiny_folder, tmp_path / "saved")
    rewrite(saved, change)
    with pytest.raises(ValueError, match=f"{saved} lacks 14 .*scorer.*{message}"):
        load_model(ModelSpec("x/y"), STTSConfig(), saved)
    with pytest.raises(ValueError, match=f"{saved} lacks 14"):
        STTSMolmo2ForConditionalGeneration.from_pretrained(saved)


@pytest.mark.parametrize("policy", ["random", "none"])
def test_a_folder_of_another_policy_may_have_no_scorer_which_is_told(tiny_folder, tmp_path, caplog, policy):
    saved = save(tiny_folder, tmp_path / "saved", policy=policy)
    rewrite(saved, without_scorer)
    load_model(ModelSpec(str(saved)), STTSConfig(policy=policy))
    warn_if_untrained(STTSConfig(policy="random"), saved)
    assert not caplog.text
    warn_if_untrained(STTSConfig(), saved)
    assert f"{saved} has no trained scorer" in caplog.text


def test_unknown_tensors_are_told_and_those_of_a_scorer_refused(copy, caplog):
    tensors = load_file(copy / "model.safetensors")
    save_file(tensors | {"model.extra": torch.ones(2)}, copy / "model.safetensors", {"format": "pt"})
    load_model(ModelSpec(str(copy)), STTSConfig())
    assert "holds 1 tensor that its model does not have, left out: model.extra" in caplog.text
    save_file(tensors | {"scorer.fc1.weight": torch.ones(2)}, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"holds scorer\.fc1\.weight, which is no tensor of its model"):
        load_model(ModelSpec(str(copy)), STTSConfig())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_that_are_no_numbers_are_refused(copy, value, dtype):
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(copy / "model.safetensors").items()}
    tensors["lm_head.weight"][3, 4] = value
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lm_head\.weight holds values that are not finite"):
        load_model(ModelSpec(str(copy)), STTSConfig())


def test_large_half_precision_weights_are_numbers():
    check_finite("x", [("w", torch.full((70_000,), 60_000, dtype=torch.float16))])


def test_tensors_of_another_shape_and_damaged_files_are_refused(copy):
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 100
    (copy / "config.json").write_text(json.dumps(config))
    expected = (
        r"model\.safetensors .*down_proj\.weight has the shape \(96, 192\) there, must have \(96, 100\)"
    )
    with pytest.raises(ValueError, match=expected):
        load_model(ModelSpec(str(copy)), STTSConfig())
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=f"cannot read {weights}"):
        load_model(ModelSpec(str(copy)), STTSConfig())


def test_specs_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"model\.dtype is 'int8'"):
        ModelSpec("a/b", dtype="int8")
    with pytest.raises(ValueError, match=r"model\.path is empty"):
        ModelSpec("")
