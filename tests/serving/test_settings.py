"""What vLLM is told of a folder before anything is built, and what it is refused."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs vLLM, in a virtual environment of its own: make test-serving")

from vllm.config import CUDAGraphMode, VllmConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.attention.backends.registry import AttentionBackendEnum

from stts.serving import vllm as plugin
from stts.serving.vllm.settings import only_flex_attention, settings_of
from tests.helpers.served import make_served


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_served(tmp_path_factory.mktemp("models") / "served", position_ids="compact")


def config(folder: Path, **options: object) -> VllmConfig:
    """As `vllm serve` makes it."""
    options = {"dtype": "float32", "max_model_len": 2048, "enforce_eager": True} | options
    return EngineArgs(model=str(folder), **options).create_engine_config()


def test_prompts_go_whole_into_the_llm_of_a_cpu(folder):
    made = config(folder, enable_prefix_caching=True, max_num_batched_tokens=1024, max_num_seqs=4)
    assert not made.cache_config.enable_prefix_caching
    assert not made.scheduler_config.enable_chunked_prefill
    assert made.scheduler_config.disable_chunked_mm_input
    assert made.scheduler_config.max_num_batched_tokens == 2048
    assert made.scheduler_config.encoder_cache_size >= 2 * 2048
    assert not made.model_config.is_mm_prefix_lm


def test_frames_are_chosen_by_our_loader_unless_the_server_says_otherwise(folder):
    media = config(folder).model_config.multimodal_config.media_io_kwargs["video"]
    assert media == {"video_backend": "stts", "num_frames": 128, "fps": 2.0, "size": 72}
    made = config(folder, media_io_kwargs={"video": {"num_frames": 8}})
    assert made.model_config.multimodal_config.media_io_kwargs["video"] == media | {"num_frames": 8}


@pytest.mark.parametrize(
    ("options", "policy", "ratio"),
    [
        ({}, "scorer", 0.5),
        ({"video_pruning_rate": 0.25}, "scorer", 0.25),
        ({"video_pruning_method": "vidcom2"}, "vidcom2", 0.5),
        ({"hf_overrides": {"stts": {"policy": "evs", "prune_ratio": 0.8}}}, "evs", 0.8),
    ],
)
def test_the_folder_says_what_is_dropped_until_the_server_does(folder, options, policy, ratio):
    model_config = config(folder, **options).model_config
    stts = settings_of(model_config)
    assert (stts.policy, stts.prune_ratio, stts.position_ids) == (policy, ratio, "compact")
    assert model_config.multimodal_config.video_pruning_rate == ratio


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"hf_overrides": {"stts": {"policy": "given"}}}, ["given", "no request can bring"]),
        ({"hf_overrides": {"stts": {"polices": "evs"}}}, ["polices"]),
        ({"tensor_parallel_size": 2}, ["tensor_parallel_size is 2", "must be 1"]),
    ],
)
def test_what_is_not_served_is_refused_by_name(folder, options, parts):
    with pytest.raises(ValueError) as raised:  # noqa: PT011  the parts say which
        config(folder, **options)
    assert all(part in str(raised.value) for part in parts), raised.value


def test_gpus_get_the_backend_whose_mask_can_be_ours(folder):
    """Called as on a GPU, where it has not run."""
    made = config(folder)
    for mode in (None, CUDAGraphMode.FULL_AND_PIECEWISE):
        made.compilation_config.cudagraph_mode = mode
        only_flex_attention(made)
        assert made.attention_config.backend is AttentionBackendEnum.FLEX_ATTENTION
        assert made.compilation_config.cudagraph_mode is CUDAGraphMode.PIECEWISE
    made.compilation_config.cudagraph_mode = CUDAGraphMode.NONE
    only_flex_attention(made)
    assert made.compilation_config.cudagraph_mode is CUDAGraphMode.NONE
    made.attention_config.backend = AttentionBackendEnum.FLASH_ATTN
    with pytest.raises(ValueError, match="FLASH_ATTN, must be FLEX_ATTENTION"):
        only_flex_attention(made)


def test_under_another_version_the_plug_in_says_so_and_leaves_vllm_alone(monkeypatch, caplog):
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    monkeypatch.delitem(MODELS_CONFIG_MAP, plugin.ARCHITECTURE, raising=False)
    monkeypatch.setattr(plugin, "installed_versions", lambda: ("0.40.0", "5.23.0"))
    monkeypatch.setattr(plugin.logger, "propagate", True)
    caplog.set_level(logging.ERROR)
    caplog.handler.setLevel(logging.ERROR)
    plugin.logger.addHandler(caplog.handler)
    plugin.register()
    assert "0.40.0" in caplog.text
    assert plugin.TESTED in caplog.text
    assert plugin.ARCHITECTURE not in MODELS_CONFIG_MAP
