from __future__ import annotations

import importlib.util
import json
import os
import pickle
import shutil
import sys
import types
import weakref
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import Molmo2Config, Molmo2ForConditionalGeneration

from stts import STTSConfig, STTSMolmo2ForConditionalGeneration
from stts.convert import tensors as weights
from stts.convert.convert import from_published
from stts.hosts.folders import ModelSpec
from stts.hosts.load import load_model
from tests.helpers.molmo2 import make_inputs, tiny_config
from tests.helpers.paths import ROOT
from tests.helpers.released import ADAPTER, VIT_BLOCK, released_config

SETTINGS = STTSConfig(
    prune_ratio=0.3,
    insert_after=2,
    aux_loss_weight=0.25,
    bias_floor=0.2,
    scorer_num_heads=2,
    scorer_hidden_dims=(40, 24),
    scorer_activation="silu",
)
SCORER = {
    "pooling.q_proj": "patch_token_pooler.wq",
    "pooling.k_proj": "patch_token_pooler.wk",
    "pooling.v_proj": "patch_token_pooler.wv",
    "pooling.o_proj": "patch_token_pooler.wo",
    "fc1": "mlp.w1",
    "fc2": "mlp.w2",
    "fc3": "mlp.w3",
}


def published_tensors(model: STTSMolmo2ForConditionalGeneration) -> dict[str, Tensor]:
    """The model's tensors as the training code names and stacks them, written out name by name."""
    state, config, out = dict(model.state_dict()), model.config, {}
    vit = "vision_backbone.image_vit."
    for name in ("positional_embedding", "patch_embedding.weight", "patch_embedding.bias"):
        out[vit + name] = state.pop(f"model.vision_tower.{name}")
    for end in (".weight", ".bias"):
        for i in range(config.vision_config.num_hidden_layers):
            for ours, theirs in VIT_BLOCK.items():
                name = f"model.vision_tower.layers.{i}.{ours}{end}"
                out[f"{vit}transformer.resblocks.{i}.{theirs}{end}"] = state.pop(name)
        for ours, theirs in SCORER.items():
            name = f"model.vision_tower.scorer.{ours}{end}"
            out[f"{vit}transformer.temporal_token_scorer.{theirs}{end}"] = state.pop(name)
        for ours, theirs in ADAPTER.items():
            if (name := f"model.multi_modal_projector.{ours}{end}") in state:
                out[f"vision_backbone.{theirs}{end}"] = state.pop(name)
    words, base = state.pop("model.language_model.embed_tokens.weight"), config.text_config.vocab_size
    out["transformer.wte.embedding"], out["transformer.wte.new_embedding"] = words[:base], words[base:]
    for i in range(config.text_config.num_hidden_layers):
        ours, theirs = f"model.language_model.layers.{i}.", f"transformer.blocks.{i}."
        q, k, v = (state.pop(f"{ours}self_attn.{letter}_proj.weight") for letter in "qkv")
        out[theirs + "att_proj.weight"] = torch.cat([q, k, v])
        out[theirs + "attn_out.weight"] = state.pop(ours + "self_attn.o_proj.weight")
        out[theirs + "q_norm.weight"] = state.pop(ours + "self_attn.q_norm.weight")
        out[theirs + "k_norm.weight"] = state.pop(ours + "self_attn.k_norm.weight")
        out[theirs + "attn_norm.weight"] = state.pop(ours + "input_layernorm.weight")
        up, gate = (state.pop(f"{ours}mlp.{part}_proj.weight") for part in ("up", "gate"))
        out[theirs + "ff_proj.weight"] = torch.cat([up, gate])
        out[theirs + "ff_out.weight"] = state.pop(ours + "mlp.down_proj.weight")
        out[theirs + "ff_norm.weight"] = state.pop(ours + "post_attention_layernorm.weight")
    out["transformer.ln_f.weight"] = state.pop("model.language_model.norm.weight")
    out["transformer.ff_out.weight"] = state.pop("lm_head.weight")
    assert not state, sorted(state)
    return {name: tensor.clone() for name, tensor in out.items()}


TRAINING_CONFIG = """
run_name: tiny
model:
  model_name: video_olmo
  llm:
    d_model: 48
    n_heads: 4
    n_kv_heads: 2
    head_dim: null
    qkv_bias: false
    n_layers: 3
    mlp_ratio: 4
    mlp_hidden_size: 128
    activation_type: swiglu
    rope: true
    rope_theta: 10000.0
    rope_type: default
    full_attention_layers: null
    attention_layer_norm: true
    attention_layer_norm_type: qwen3
    layer_norm_eps: 1.0e-06
    max_sequence_length: 4096
    max_position_embeddings: null
    norm_after: false
    vocab_size: 45
    embedding_size: 48
    additional_vocab_size: 16
    weight_tying: false
  vision_backbone:
    vit:
      image_model_type: siglip
      image_default_input_size: [24, 24]
      image_patch_size: 4
      image_emb_dim: 32
      image_num_heads: 2
      image_num_key_value_heads: 2
      image_num_layers: 9
      image_head_dim: 16
      image_mlp_dim: 48
      image_mlp_activations: gelu_pytorch_tanh
      image_num_pos: 36
      image_norm_eps: 1.0e-06
      topk: 0.3
      prune_at: 2
      prune_method: scorer
      sim_reg_loss_coefficient: 0.25
      rescale_bias_min: 0.2
    vit_layers: [-3, -5]
    skip_unused_layers: true
optimizer: {llm_learning_rate: 1.0e-05}
"""


@pytest.fixture(scope="module")
def model() -> STTSMolmo2ForConditionalGeneration:
    """Every tensor its own random numbers, biases and norms included: no two can be mistaken for each other."""
    config = tiny_config()
    config.adapter_config.intermediate_size = config.text_config.intermediate_size  # one setting in training
    config.stts = SETTINGS.to_dict()
    model = STTSMolmo2ForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1 + (parameter.ndim == 1))
    return model.eval()


@pytest.fixture(scope="module")
def tensors(model) -> dict[str, Tensor]:
    return published_tensors(model)


def write_run(folder: Path, tensors: dict[str, Tensor], config: str = TRAINING_CONFIG) -> Path:
    """A training run's folder."""
    folder.mkdir(parents=True)
    torch.save(tensors, folder / "model.pt")
    if config:
        (folder / "config.yaml").write_text(config)
    return folder


@pytest.fixture(scope="module")
def run(tensors, tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "run", tensors)


def write_sharded(folder: Path, tensors: dict[str, Tensor], config: str = TRAINING_CONFIG) -> Path:
    """A training run's folder with a sharded checkpoint, optimizer state included."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    state = {
        "model": dict(tensors),
        "optim": {"state": {"transformer.ln_f.weight": {"exp_avg": torch.ones(48)}}},
    }
    with pytest.warns(UserWarning, match="single process"):
        dcp.save(state, checkpoint_id=folder / "model_and_optim", no_dist=True)
    return folder


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def assert_same_model(folder: Path, model) -> None:
    again, loaded = STTSMolmo2ForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not loaded["missing_keys"]
    assert not loaded["unexpected_keys"]
    assert not loaded["mismatched_keys"]
    assert_same(again.state_dict(), model.state_dict())
    inputs = make_inputs([[3], [2, 1]])
    with torch.no_grad():
        found, expected = again.eval()(**inputs), model(**inputs)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.scores, expected.scores)
    assert not found.keep_windows.all()


def leftovers(folder: Path) -> list[Path]:
    """What a conversion to `folder` left on disk."""
    return [path for path in folder.parent.glob("*") if folder.name in path.name] + [
        path for path in folder.parent.glob(".*") if folder.name in path.name
    ]


@pytest.mark.parametrize("which", ["the run's folder", "its model.pt"])
def test_a_training_checkpoint_becomes_the_model_it_was(run, model, tmp_path, which):
    remarks = from_published(run if "folder" in which else run / "model.pt", tmp_path / "out")
    assert len(remarks) == 1
    assert "tokenizer" in remarks[0]
    config = Molmo2Config.from_pretrained(tmp_path / "out")
    assert config.stts == SETTINGS.to_dict() | {"scorer_hidden_dims": [40, 24]}
    assert config.architectures == ["STTSMolmo2ForConditionalGeneration"]
    assert config.vision_config.num_hidden_layers == 7
    assert config.adapter_config.vision_feature_layer == [6, 4]
    for part in ("vision_config", "adapter_config", "text_config"):
        ignored = {"initializer_range"}
        found, expected = getattr(config, part).to_dict(), getattr(model.config, part).to_dict()
        assert {k: v for k, v in found.items() if k not in ignored} == {
            k: v for k, v in expected.items() if k not in ignored
        }
    assert (config.image_patch_id, config.frame_start_token_id) == (50, 55)  # vocabulary of 48, then the rest
    assert_same_model(tmp_path / "out", model)


@pytest.mark.parametrize("foreign", [False, True])
def test_a_sharded_checkpoint_becomes_the_model_it_was(tensors, model, tmp_path, monkeypatch, foreign):
    folder = write_sharded(tmp_path / "step10", tensors)
    index = folder / "model_and_optim" / ".metadata"
    if foreign:  # the training code has its own class for places in files, which is not installed here
        module = types.ModuleType("olmo.train.remote_filesystem")

        class _StorageInfo:
            def __init__(self, info) -> None:
                self.relative_path, self.offset, self.length = info.relative_path, info.offset, info.length

        _StorageInfo.__module__, _StorageInfo.__qualname__ = module.__name__, "_StorageInfo"
        module._StorageInfo = _StorageInfo
        found = pickle.loads(index.read_bytes())
        found.storage_data = {key: _StorageInfo(info) for key, info in found.storage_data.items()}
        with monkeypatch.context() as patch:
            for name in ("olmo", "olmo.train", module.__name__):
                patch.setitem(sys.modules, name, module)
            index.write_bytes(pickle.dumps(found))
    from_published(folder if foreign else folder / "model_and_optim", tmp_path / "out")
    assert_same_model(tmp_path / "out", model)


def test_config_and_tokenizer_come_from_a_folder_like_it(model, tensors, tmp_path):
    """Released configs name 27 ViT layers for 25: the checkpoint may hold the surplus, the folder never does."""
    surplus = {}
    for name, tensor in tensors.items():
        for layer in (7, 8):
            if ".resblocks.6." in name:
                surplus[name.replace(".6.", f".{layer}.")] = torch.randn(tensor.shape)
    run = write_run(tmp_path / "run", tensors | surplus, config="")
    like = tmp_path / "like"
    like.mkdir()
    config = released_config(model.config) | {"auto_map": {"AutoConfig": "code.Config"}}
    (like / "config.json").write_text(json.dumps(config))
    for name in (
        "tokenizer.json",
        "chat_template.jinja",
        "merges.txt",
        "code.py",
        "model.safetensors.index.json",
    ):
        (like / name).write_text("{}")
    remarks = from_published(
        run, tmp_path / "out", like=like, num_heads=4, prune_ratio=0.75, dtype="bfloat16"
    )
    assert remarks == ["ViT layers 7, 8 are left out: no feature is taken beyond layer 6."]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
        "merges.txt",
    }
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["stts"]["scorer_num_heads"] == 4
    assert written["stts"]["prune_ratio"] == 0.75
    assert written["stts"]["insert_after"] == 3  # no config.yaml says otherwise
    assert written["dtype"] == "bfloat16"
    assert "auto_map" not in written
    again = STTSMolmo2ForConditionalGeneration.from_pretrained(tmp_path / "out", dtype="auto")
    expected = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    assert_same(again.state_dict(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_keep_the_type_they_are_stored_in(tensors, model, tmp_path, dtype):
    tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    from_published(write_run(tmp_path / "run", tensors), tmp_path / "ours")
    again = STTSMolmo2ForConditionalGeneration.from_pretrained(tmp_path / "ours", dtype="auto")
    assert_same(again.state_dict(), {name: tensor.to(dtype) for name, tensor in model.state_dict().items()})


def test_a_head_that_is_the_word_table_becomes_a_tensor_of_its_own(tensors, tmp_path):
    """Molmo2-4B is trained without a head of its own; Hugging Face folders always hold one."""
    tensors = {name: tensor for name, tensor in tensors.items() if name != "transformer.ff_out.weight"}
    config = TRAINING_CONFIG.replace("weight_tying: false", "weight_tying: true")
    from_published(write_run(tmp_path / "run", tensors, config), tmp_path / "ours")
    saved = load_file(tmp_path / "ours" / "model.safetensors")
    assert torch.equal(saved["lm_head.weight"], tensors["transformer.wte.embedding"])

    untold = write_run(tmp_path / "untold", tensors)
    with pytest.raises(ValueError, match=r"missing: transformer\.ff_out\.weight (.|\n)*tied"):
        from_published(untold, tmp_path / "out")
    from_published(untold, tmp_path / "out", tied=True)
    assert_same(load_file(tmp_path / "out" / "model.safetensors"), saved)


def test_plain_transformers_loads_the_folder_without_its_scorer(run, model, tmp_path):
    from_published(run, tmp_path / "ours")
    plain, loaded = Molmo2ForConditionalGeneration.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(loaded[kind] for kind in ("missing_keys", "mismatched_keys"))
    kept = {name: tensor for name, tensor in model.state_dict().items() if ".scorer." not in name}
    assert_same(plain.state_dict(), kept)
    unpruned = STTSMolmo2ForConditionalGeneration.from_pretrained(
        tmp_path / "ours", stts=SETTINGS.replace(prune_ratio=0)
    )
    inputs = make_inputs([[3], [2, 1]])
    with torch.no_grad():
        assert torch.equal(plain(**inputs).logits, unpruned.eval()(**inputs).logits)


def test_many_files_hold_what_one_does(run, model, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "SHARD_BYTES", 50_000)
    from_published(run, tmp_path / "out")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 5
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert {path.name for path in (tmp_path / "out").glob("*.safetensors")} == set(files)
    sizes = {file: sum(t.nbytes for t in load_file(tmp_path / "out" / file).values()) for file in files}
    assert max(sizes.values()) <= 50_000
    assert sum(sizes.values()) == index["metadata"]["total_size"]
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / "out" / file, "pt") as shard:
            assert name in shard.keys()  # noqa: SIM118
    assert_same_model(tmp_path / "out", model)


def test_missing_unexpected_and_misshapen_tensors_are_listed(tensors, tmp_path):
    damaged = dict(tensors)
    del damaged["transformer.blocks.1.att_proj.weight"]
    del damaged["vision_backbone.image_vit.transformer.temporal_token_scorer.mlp.w3.bias"]
    damaged["vision_backbone.pad_embed"] = torch.zeros(64)
    damaged["vision_backbone.image_projector.w2.weight"] = torch.zeros(48, 41)
    with pytest.raises(ValueError, match="does not fit") as caught:
        from_published(write_run(tmp_path / "run", damaged), tmp_path / "out")
    assert str(caught.value).splitlines()[1:] == [
        "  missing: vision_backbone.image_vit.transformer.temporal_token_scorer.mlp.w3.bias (1,)",
        "  missing: transformer.blocks.1.att_proj.weight (96, 48)",
        "  unexpected: vision_backbone.pad_embed (64,)",
        "  wrong shape: vision_backbone.image_projector.w2.weight is (48, 41), must be (48, 64)",
    ]
    assert leftovers(tmp_path / "out") == []


def test_a_checkpoint_without_scorer_is_told_so(tensors, tmp_path):
    plain = {name: tensor for name, tensor in tensors.items() if "temporal_token_scorer" not in name}
    with pytest.raises(ValueError, match=r"missing: .*patch_token_pooler\.wq\.weight") as caught:
        from_published(write_run(tmp_path / "run", plain), tmp_path / "out")
    assert len(str(caught.value).splitlines()) == 1 + 14


class Trap:
    """Pickles as a call that leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def broken_runs(folder: Path, run: Path) -> dict[str, Path]:
    """Name of the damage -> a run that has it."""
    names = ("text", "cut", "code", "pickle", "list", "other", "empty", "index", "indexcode", "shard")
    paths = {name: folder / name for name in names}
    for path in paths.values():
        path.mkdir()
        shutil.copy(run / "config.yaml", path)
    (paths["text"] / "model.pt").write_text("not a checkpoint")
    whole = (run / "model.pt").read_bytes()
    (paths["cut"] / "model.pt").write_bytes(whole[: len(whole) // 2])
    torch.save({"a": torch.ones(1), "b": Trap(folder / "sprung")}, paths["code"] / "model.pt")
    (paths["pickle"] / "model.pt").write_bytes(pickle.dumps(Trap(folder / "sprung")))
    torch.save([torch.ones(1)], paths["list"] / "model.pt")
    torch.save({"model": {"a": torch.ones(1)}, "step": 3}, paths["other"] / "model.pt")
    (paths["index"] / ".metadata").write_bytes(b"nothing of the kind")
    (paths["indexcode"] / ".metadata").write_bytes(pickle.dumps(Trap(folder / "sprung")))
    return paths


def test_what_is_no_checkpoint_is_refused_and_its_code_never_run(run, tensors, tmp_path):
    paths = broken_runs(tmp_path, run)
    shutil.rmtree(paths["shard"])
    write_sharded(paths["shard"], tensors)
    next((paths["shard"] / "model_and_optim").glob("*.distcp")).unlink()
    expected = {
        "text": r"text/model\.pt is not a checkpoint",
        "cut": r"cut/model\.pt is not a checkpoint",
        "code": r"code/model\.pt holds more than tensors and is not loaded",
        "pickle": r"pickle/model\.pt is not a checkpoint",
        "list": r"list/model\.pt holds list",
        "other": r"other/model\.pt must be a dict of tensors, but model, step are none",
        "empty": r"empty holds neither model\.pt nor a sharded checkpoint",
        "index": r"index/\.metadata is not the index of a sharded checkpoint",
        "indexcode": r"indexcode/\.metadata is not the index .*posix\.mkdir",
        "shard": r"__0_0\.distcp",
    }
    for name, message in expected.items():
        with pytest.raises((ValueError, OSError), match=message):
            from_published(paths[name], tmp_path / "out")
    with pytest.raises(ValueError, match="nowhere: no such file or folder"):
        from_published(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "sprung").exists()
    assert leftovers(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (("    d_model: 48\n", ""), {}, r"does not say model\.llm\.d_model; .*like"),
        (("image_emb_dim: 32", "image_emb_dim: null"), {}, r"model\.vision_backbone\.vit\.image_emb_dim"),
        (("d_model: 48", "d_model: wide"), {}, "holds a value no Molmo2 has"),
        (("norm_type: qwen3", "norm_type: other"), {}, r"holds a value no Molmo2 has (.|\n)*qk_norm_type"),
        (("rope_theta: 10000.0", "rope_theta: much"), {}, "holds a value no Molmo2 has"),
        (("rope_type: default", "rope_type: yarn"), {}, "scales positions"),
        (("vision_backbone:", "vision_tower:"), {}, r"no section model\.vision_backbone"),
        (("model:", "modle:"), {}, "no model section"),
        (("run_name: tiny", "run_name: ]"), {}, "not valid YAML"),
        (("topk: 0.3", "topk: 1.5"), {}, r"prune_ratio is 1\.5"),
        (("topk: 0.3", "topk: most"), {}, "config.yaml or asked for, does not fit: prune_ratio is 'most'"),
        (("prune_at: 2", "prune_at: 6"), {}, "insert_after is 6"),
        (None, {"num_heads": 7}, "num_heads is 7"),
        (None, {"prune_ratio": 1.0}, r"prune_ratio is 1\.0"),
        (None, {"dtype": "int8"}, "dtype is 'int8'"),
        (None, {"like": "nobody/nothing"}, "like is 'nobody/nothing': there is no such folder"),
        (None, {"like": "nowhere"}, r"nowhere has no config\.json"),
    ],
)
def test_settings_that_make_no_sense_are_named(run, tmp_path, change, options, message):
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    if change:
        assert change[0] in TRAINING_CONFIG
        (copy / "config.yaml").write_text(TRAINING_CONFIG.replace(*change))
    with pytest.raises(ValueError, match=message):
        from_published(copy, tmp_path / "out", **options)
    assert leftovers(tmp_path / "out") == []


def test_wrong_folders_are_named(run, tiny_folder, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="full exists already"):
        from_published(run, full)
    assert (full / "notes.txt").read_text() == "mine"
    with pytest.raises(ValueError, match="looks like a Hugging Face folder already"):
        from_published(tiny_folder, tmp_path / "out")
    with pytest.raises(ValueError, match=r"there is no config\.yaml beside"):
        from_published(shutil.copy(run / "model.pt", tmp_path / "alone.pt"), tmp_path / "out")
    other = tmp_path / "other"
    other.mkdir()
    for text, message in (
        ('{"model_type": "llama"}', "'llama'"),
        ("[", "not the config"),
        ("{}", "not the config"),
    ):
        (other / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            from_published(run, tmp_path / "out", like=other)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux' memory counts")
def test_mapped_files_take_no_memory(tmp_path, monkeypatch):
    config = tiny_config()
    config.text_config.intermediate_size = config.adapter_config.intermediate_size = 25_000
    config.stts = SETTINGS.to_dict()
    with torch.device("meta"):
        model = STTSMolmo2ForConditionalGeneration(config)
    tensors = published_tensors(model.to_empty(device="cpu"))
    assert sum(tensor.nbytes for tensor in tensors.values()) > 50e6
    run = write_run(tmp_path / "run", tensors)
    config.save_pretrained(tmp_path / "like")
    del model, tensors
    peak = 0

    def watched(function):
        def call(*args, **kwargs):
            nonlocal peak
            result = function(*args, **kwargs)
            peak = max(peak, own_memory())
            return result

        return call

    monkeypatch.setattr(weights, "SHARD_BYTES", 20_000_000)
    monkeypatch.setattr(weights, "save_file", watched(weights.save_file))
    before = own_memory()
    from_published(run, tmp_path / "ours", like=tmp_path / "like")
    assert 0 < peak < before + 10e6


def own_memory() -> int:
    """Bytes this process has for itself: pages of mapped files do not count."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def test_of_a_sharded_checkpoint_one_file_is_held_at_a_time(tensors, tmp_path, monkeypatch):
    run = write_sharded(tmp_path / "run", tensors)
    alive, peaks = weakref.WeakSet(), []
    dcp_load, save_file = dcp.load, weights.save_file

    def load(state, **kwargs) -> None:
        dcp_load(state, **kwargs)
        alive.update(tensor.untyped_storage() for tensor in state.values())

    def save(shard, *args, **kwargs) -> None:
        peaks.append(sum(storage.nbytes() for storage in alive))
        save_file(shard, *args, **kwargs)

    monkeypatch.setattr(weights, "SHARD_BYTES", 50_000)
    monkeypatch.setattr(dcp, "load", load)
    monkeypatch.setattr(weights, "save_file", save)
    from_published(run, tmp_path / "out")
    assert len(peaks) > 5
    assert max(peaks) < 50_000 + 2 * 24_576  # and the first of the next
    assert min(peaks) > 0


def script():
    path = ROOT / "scripts" / "convert.py"
    spec = importlib.util.spec_from_file_location("convert_script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_converts_and_reports_errors_in_one_line(tiny_folder, tmp_path, capsys):
    model = STTSMolmo2ForConditionalGeneration.from_pretrained(
        tiny_folder, stts=STTSConfig(scorer_hidden_dims=(16, 8), scorer_activation="silu")
    )
    run = write_run(tmp_path / "run", published_tensors(model), config="")
    convert = script()
    folder = str(tmp_path / "folder")
    command = ["import", str(run), folder, "--like", str(tiny_folder), "--prune-ratio", "0.25"]
    convert.main(convert.parse(command))
    assert f"written to {folder}" in capsys.readouterr().out.splitlines()
    again, processor = load_model(ModelSpec(folder), STTSConfig())  # with tokenizer and all
    assert [processor.image_size] * 2 == model.config.vision_config.image_size
    assert_same(again.state_dict(), model.state_dict())
    with pytest.raises(SystemExit) as stop:
        convert.main(convert.parse(command))
    assert stop.value.code == 2
    assert f"\nerror: {folder} exists already" in f"\n{capsys.readouterr().err}"
    with pytest.raises(SystemExit) as stop:
        convert.parse(["import", folder])
    assert stop.value.code == 2


@pytest.mark.parametrize("command", ["export", "strip"])
def test_commands_that_are_gone_say_so(command, capsys):
    with pytest.raises(SystemExit) as stop:
        script().parse([command, "folder", "back"])
    assert stop.value.code == 2
    assert f"{command} is gone: plain transformers loads" in capsys.readouterr().err
