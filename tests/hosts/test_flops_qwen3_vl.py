"""Counts held against torch's own counter on the running model."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3VLConfig

import stts
from stts import STTSConfig
from stts.hosts.flops_qwen3_vl import limit, multiply_adds
from stts.hosts.tiny_qwen3_vl import make_tiny_qwen3_vl

GRID = (6, 8)
WINDOWS = 12
TEXT, PER_UNIT = 5, 3


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from transformers import Qwen3VLForConditionalGeneration

    folder = make_tiny_qwen3_vl(tmp_path_factory.mktemp("models") / "tiny")
    return stts.pruning(Qwen3VLForConditionalGeneration).from_pretrained(folder).eval()


def inputs_of(model, units):
    config = model.config
    unit = [7] * PER_UNIT + [config.vision_start_token_id] + [config.video_token_id] * WINDOWS
    ids = torch.tensor([[8] * TEXT + [*unit, config.vision_end_token_id] * units])
    return {
        "input_ids": ids,
        "mm_token_type_ids": (ids == config.video_token_id).int() * 2,
        "pixel_values_videos": torch.randn(units * GRID[0] * GRID[1], 864),
        "video_grid_thw": torch.tensor([[units, *GRID]]),
    }


@pytest.mark.parametrize("policy", ["scorer", "evs", "uniform"])
@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_counts_are_those_of_the_running_model(model, policy, ratio):
    units = 2  # all that is dropped goes from the second: kept windows are spread evenly
    model.stts = STTSConfig(prune_ratio=ratio, policy=policy)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        output = model(**inputs_of(model, units))
    cost = multiply_adds(model.config, units, GRID, ratio, TEXT, PER_UNIT)
    length, text = output.logits.shape[1], model.config.text_config
    heads = text.num_attention_heads * text.head_dim
    masked = text.num_hidden_layers * heads * (2 * length**2 - length * (length + 1))  # pairs a kernel skips
    biased = 0
    if policy == "scorer" and ratio:  # heads of 24 channels and one that carries the bias, padded to 32
        biased = 2 * units * (GRID[0] * GRID[1]) ** 2 * model.config.vision_config.num_heads * (32 - 24)
    assert counter.get_total_flops() // 2 == pytest.approx(cost.total + masked + biased, rel=0.002)


def test_backward_is_two_more_of_everything_but_the_pixels(model):
    forward = multiply_adds(model.config, 4, GRID, 0.5)
    both = multiply_adds(model.config, 4, GRID, 0.5, backward=True)
    assert both.total == 3 * forward.total - forward.patch_embedding


def test_the_limit_without_pruning_is_one_and_grows_with_it():
    config = Qwen3VLConfig()
    assert limit(config, 64, (24, 42), 0.0) == 1
    assert limit(config, 1, (24, 42), 0.5) == 1
    limits = [limit(config, 64, (24, 42), ratio) for ratio in (0.1, 0.3, 0.5, 0.8)]
    assert limits == sorted(limits)
    assert limits[0] > 1
