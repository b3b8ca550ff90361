"""Counts held against a count by hand, against torch's own counter on the running model, and against the table."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import Molmo2Config

from stts import STTSConfig, STTSMolmo2ForConditionalGeneration
from stts.hosts.flops import limit, multiply_adds, vision_limit
from tests.helpers.molmo2 import make_inputs, tiny_config


def molmo2_4b() -> Molmo2Config:
    text = {"hidden_size": 2560, "intermediate_size": 9728}  # all else is transformers' default
    return Molmo2Config(
        vision_config={},
        adapter_config={"intermediate_size": 9728, "text_hidden_size": 2560},
        text_config=text,
    )


def test_a_tiny_model_counted_by_hand() -> None:
    # 2 frames of 36 patches in 4 windows; half of 8 windows gone: frame 0 whole, frame 1 empty
    cost = multiply_adds(tiny_config(), 2, 0.5, text_tokens=10, text_per_frame=3)
    assert cost.patch_embedding == 2 * 36 * 48 * 32
    whole = 72 * (4 * 32 * 32 + 2 * 32 * 48) + 2 * (2 * 36 * 36) * 32
    one_frame = 36 * (4 * 32 * 32 + 2 * 32 * 48) + 2 * (36 * 36) * 32
    assert cost.vision == 5 * whole + 2 * one_frame
    assert cost.scorer == 8 * (32 * 32 * (1 + 9 + 9 + 1) + 64 * 32 + 32 * 16 + 16)
    assert cost.adapter == 4 * (64 * 32 + 2 * 9 * 64 * 32 + 2 * 9 * 32 + 32 * 32 + 2 * 32 * 40 + 40 * 48)
    visual, length = 4 + 4, 4 + 4 + 6 + 10
    pairs = sum(visual if q < visual else q + 1 for q in range(length))  # visual ones first
    layer = length * (2 * 48 * 48 + 2 * 48 * 24 + 3 * 48 * 64) + 2 * pairs * 48
    assert cost.llm == 3 * layer
    assert cost.head == length * 48 * 48
    assert cost.total == sum(
        [cost.patch_embedding, cost.vision, cost.scorer, cost.adapter, cost.llm, cost.head]
    )


def count(step) -> int:
    """Multiply-adds that torch sees; the math kernel, because its counter does not know the CPU's fused one."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() // 2


def masked_pairs(length: int, text: int) -> int:
    visual = length - text
    return length * (length + 1) // 2 + visual * (visual - 1) // 2


def kernel_extras(keep: Tensor | None, length: int, text: int) -> int:
    """What the kernels of these tests do beyond the arithmetic: masked pairs of the LLM, and the unevenness of what
    was kept."""
    masked = 2 * (length**2 - masked_pairs(length, text)) * 48 * 3
    if keep is None:
        return masked
    kept = keep.sum(1) * 9  # patches of each frame
    even = 36**2 + kept[1:].sum().item() ** 2 / (len(keep) - 1)
    uneven = 2 * (kept.square().sum().item() - even) * 32 * 2
    return masked + round(uneven)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.8])
def test_counts_are_those_of_the_running_model(ratio: float) -> None:
    config = tiny_config()
    config.stts = STTSConfig(prune_ratio=ratio, scorer_hidden_dims=(24, 12)).to_dict()
    model = STTSMolmo2ForConditionalGeneration(config).eval()
    results = []
    with torch.no_grad():
        counted = count(lambda: results.append(model(**make_inputs([[8]]))))
    cost = multiply_adds(config, 8, ratio, text_tokens=3 + 5, text_per_frame=2)
    extras = kernel_extras(results[0].keep_windows, results[0].logits.shape[1], 8 * 2 + 8)
    assert counted == pytest.approx(cost.total + extras, rel=0.002)


def test_a_grid_that_the_windows_overhang_is_counted_by_its_patches() -> None:
    config = tiny_config(grid=7)
    model = STTSMolmo2ForConditionalGeneration(config).eval()
    model.stts = model.stts.replace(prune_ratio=0.0)
    pixels = torch.randn(3, 49, 48)
    with torch.no_grad():
        counted = count(lambda: model.model.vision_tower(pixels))
    cost = multiply_adds(config, 3)
    assert counted == cost.patch_embedding + cost.vision
    assert cost.head == (3 * (9 + 2 + 6) + 64) * 48 * 48  # 3 x 3 windows a frame


def test_backward_is_two_more_of_everything_but_the_pixels() -> None:
    config = tiny_config()
    config.stts = STTSConfig(prune_ratio=0.0).to_dict()
    model = STTSMolmo2ForConditionalGeneration(config).train()
    inputs = make_inputs([[4]])
    counted = count(lambda: model(**inputs).logits.sum().backward())
    cost = multiply_adds(config, 4, text_tokens=8, text_per_frame=2, backward=True)
    length = 4 * (4 + 2 + 2) + 8
    assert counted == pytest.approx(cost.total + 3 * kernel_extras(None, length, 16), rel=0.002)


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(0.5, {64: 1.93, 128: 2.08, 256: 2.30, 384: 2.45}), (0.8, {64: 3.7, 128: 4.2, 256: 5.1, 384: 5.8})],
)
def test_limits_of_molmo2_4b(ratio: float, expected: dict[int, float]) -> None:
    for frames, value in expected.items():
        assert limit(molmo2_4b(), frames, ratio) == pytest.approx(value, rel=0.015)
        assert limit(molmo2_4b(), frames, ratio, backward=True) == pytest.approx(value, rel=0.015)
        assert limit(molmo2_4b(), frames, ratio, logits=1) == pytest.approx(value, rel=0.02)


def test_the_limit_without_pruning_is_one_and_grows_with_it() -> None:
    config = molmo2_4b()
    assert limit(config, 64, 0.0) == 1
    assert limit(config, 1, 0.5) == 1  # a single frame loses nothing
    limits = [limit(config, 128, ratio) for ratio in (0.1, 0.3, 0.5, 0.8)]
    assert limits == sorted(limits)
    assert limits[0] > 1


def under(policy: str) -> Molmo2Config:
    config = molmo2_4b()
    config.stts = STTSConfig(policy=policy).to_dict()
    return config


def test_dropping_after_the_vit_saves_only_what_comes_later() -> None:
    ours, theirs = (multiply_adds(under(policy), 64, 0.5) for policy in ("scorer", "evs"))
    unpruned = multiply_adds(molmo2_4b(), 64)
    assert theirs.vision == unpruned.vision
    assert theirs.scorer == 0
    assert theirs.adapter == unpruned.adapter  # they choose among the tokens it makes
    assert (theirs.llm, theirs.head) == (ours.llm, ours.head)
    assert multiply_adds(under("none"), 64, 0.5) == unpruned
    assert 1 < limit(under("evs"), 64, 0.5) < limit(molmo2_4b(), 64, 0.5)


def test_merging_costs_what_dropping_does_without_a_scorer() -> None:
    ours, theirs = (multiply_adds(under(policy), 64, 0.5) for policy in ("scorer", "tome"))
    assert ours.scorer > 0 == theirs.scorer
    assert ours.total - ours.scorer == theirs.total


def test_fewer_frames_cost_the_vit_what_so_many_frames_cost() -> None:
    cost = multiply_adds(under("uniform"), 64, 0.5)
    assert cost.vision == multiply_adds(molmo2_4b(), 32).vision
    assert cost.llm == multiply_adds(under("scorer"), 64, 0.5).llm
    assert multiply_adds(under("none"), 64) == multiply_adds(molmo2_4b(), 64)


def test_the_vit_alone_approaches_its_share_of_dense_blocks() -> None:
    assert vision_limit(molmo2_4b(), 384, 0.99) == pytest.approx(25 / 5, rel=0.15)
    assert vision_limit(molmo2_4b(), 64, 0.0) == 1
