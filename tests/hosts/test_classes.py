"""stts.pruning, insert_stts and remove_stts, beside what the battery checks of every host."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, Qwen3VLForConditionalGeneration, SiglipVisionModel

import stts
from stts import STTSConfig, insert_stts, remove_stts
from stts.hosts.base import Host
from stts.hosts.internvl import InternVL
from stts.train.parallel import shard
from tests.helpers.hosts import rows
from tests.helpers.vision_models import clip, siglip


def test_the_package_is_a_function_too():
    made = stts.pruning(Qwen3VLForConditionalGeneration)
    assert issubclass(made, Qwen3VLForConditionalGeneration)
    assert made.__name__ == "STTSQwen3VLForConditionalGeneration"
    assert stts.pruning(made) is made

    config = importlib.import_module("stts.pruning.config")
    assert stts.pruning.config is config
    assert config.STTSConfig is STTSConfig
    assert stts.pruning(Qwen3VLForConditionalGeneration) is made


def test_the_package_may_be_imported_before_the_library():
    code = "import stts.pruning.config as c, stts, sys; assert callable(stts.pruning) and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_arguments_may_be_given_by_place_and_are_named_as_in_transformers():
    row = rows()[0]
    model, inputs = row.pruned(), row.batch()
    plain = inspect.signature(Qwen3VLForConditionalGeneration.forward)
    assert inspect.signature(type(model).forward) == plain
    with torch.no_grad():
        named = model(**inputs)
        placed = model(inputs.pop("input_ids"), inputs.pop("attention_mask"), **inputs)
    assert torch.equal(named.logits, placed.logits)


def test_an_unknown_model_is_answered_with_the_known_ones_and_a_way_to_describe_it():
    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    expected = (
        r"cannot prune a BertModel; supported: .*Qwen3VLForConditionalGeneration.*stts\.hosts\.base\.Host"
    )
    with pytest.raises(ValueError, match=expected):
        insert_stts(BertModel(config), STTSConfig())
    with pytest.raises(ValueError, match=expected):
        stts.pruning(BertModel)
    with pytest.raises(ValueError, match="cannot prune a Linear"):
        insert_stts(nn.Linear(2, 2), STTSConfig())
    with pytest.raises(ValueError, match="a BertModel has nothing to remove"):
        remove_stts(BertModel(config))


@pytest.mark.parametrize("make", [siglip, clip])
@torch.no_grad()
def test_bare_vision_models_can_be_copied_pickled_saved_and_undone(make, tmp_path):
    pixels, model = torch.randn(4, 3, 48, 48), make()
    before = list(model.state_dict())
    insert_stts(model, STTSConfig(prune_ratio=0.5))
    expected = model(pixels, frames_per_video=[3, 1])
    model.save_pretrained(tmp_path)
    loaded = stts.pruning(type(model).base).from_pretrained(tmp_path).eval()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded):
        out = twin(pixels, frames_per_video=[3, 1])
        assert torch.equal(out.last_hidden_state, expected.last_hidden_state)
        twin.stts = twin.stts.replace(prune_ratio=0.0)
        assert len(model(pixels).last_hidden_state) < len(twin(pixels).last_hidden_state.flatten(0, 1))
    plain = type(model).base.from_pretrained(tmp_path).eval()
    whole = plain(pixels).last_hidden_state
    scorer = model.scorer
    assert remove_stts(model) is scorer
    assert list(model.state_dict()) == before
    assert torch.equal(model(pixels).last_hidden_state, whole)


def test_models_made_of_one_configuration_do_not_share_it():
    config = siglip().config
    first, second = SiglipVisionModel(config), SiglipVisionModel(config)
    insert_stts(first, STTSConfig(prune_ratio=0.8))
    first(torch.randn(3, 3, 48, 48))
    assert not hasattr(second.config, "stts")
    assert second.config._attn_implementation == "sdpa"
    made = stts.pruning(SiglipVisionModel)
    one, other = made(config), made(config)
    one.stts = one.stts.replace(prune_ratio=0.1)
    assert other.stts.prune_ratio == 0.5


def test_forwards_that_accelerate_wrapped_prune_too():
    from accelerate.hooks import ModelHook, add_hook_to_module

    model, pixels = siglip(), torch.randn(3, 3, 48, 48)
    add_hook_to_module(model, ModelHook())
    insert_stts(model, STTSConfig(prune_ratio=0.5))
    assert model(pixels).keep.sum() == 6


def test_descriptions_that_do_not_fit_are_refused():
    row = rows()[0]

    class NoLoop(row.pruned().host_type):
        blocks_at = "deepstack_merger_list"

        @property
        def dims(self):
            return 32, 2

        @property
        def blocks(self):
            return nn.ModuleList([nn.Identity() for _ in range(7)])

    with pytest.raises(ValueError, match=r"NoLoop\.encode did not run the blocks at 'deepstack_merger_list'"):
        insert_stts(row.plain(), STTSConfig(), host=NoLoop)(**row.batch())

    class Short(row.pruned().host_type):
        def encode(self, inputs, clips):
            features, extra = super().encode(inputs, clips)
            return features[1:], extra

    with pytest.raises(
        ValueError, match=r"Short\.encode gave \d+ features, must be \d+ of survivors or \d+ of all"
    ):
        insert_stts(row.plain(), STTSConfig(), host=Short)(**row.batch())
    with pytest.raises(ValueError, match=r"must be a subclass of .*Host: the class, not an instance"):
        insert_stts(row.plain(), STTSConfig(), host=Short(row.plain()))


def test_a_block_whose_attention_does_not_listen_is_noticed():
    model = insert_stts(siglip(), STTSConfig())
    model.config._attn_implementation = "stts_sdpa"

    class Deaf(nn.Module):
        def forward(self, hidden_states, attention_mask=None, **kwargs):
            return hidden_states, None

    for block in model.encoder.layers:
        block.self_attn = Deaf()
    with pytest.raises(ValueError, match="the attention of SiglipEncoderLayer did not listen"):
        model(torch.randn(3, 3, 48, 48))


def test_a_host_without_a_still_frame_is_not_sharded():
    class Stirring(InternVL):
        still = Host.still

    row = next(row for row in rows() if row.name == "internvl")
    model = insert_stts(row.plain(), STTSConfig(), host=Stirring)
    with pytest.raises(ValueError, match="cannot be sharded yet: train it with parallel=ddp"):
        shard(model, torch.device("cpu"), 1, False)


def test_outputs_may_be_tuples():
    row = rows()[0]
    model, inputs = row.pruned(), row.batch()
    with torch.no_grad():
        assert torch.equal(model(**inputs, return_dict=False)[0], model(**inputs).logits)


def test_a_pruning_model_of_any_window_is_a_vision_models_own_choice():
    model = insert_stts(siglip(), STTSConfig(pool_width=2))
    assert model(torch.randn(3, 3, 48, 48)).keep.shape == (3, 9)
