from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stts import attention_bias, prune_tokens, select_windows
from stts.pruning.selection import num_dropped
from tests.helpers.goldens import case

RATIOS = (0.3, 0.5, 0.8)
videos = st.lists(st.integers(1, 7), min_size=1, max_size=4)
ratios = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(
    ("name", "segments"),
    [
        ("v8", [8]),
        ("v5_3", [5, 3]),
        ("v6_4_9", [6, 4, 9]),
        ("mixed_pad", [4, 1, 1, 5, 1]),  # two still images, one padding frame
        ("w9_v8", [8]),
        ("w9_v5_3", [5, 3]),
    ],
)
@pytest.mark.parametrize("ratio", RATIOS)
def test_keep_sets_equal_the_published_ones(name, segments, ratio):
    data = case("select", name)
    expected = data.get(f"r{ratio}/window_keep_capped", data[f"r{ratio}/window_keep"]).bool()
    keep = select_windows(data["scores"], segments, ratio)
    if name == "mixed_pad":  # a padding frame is dropped there; here it does not exist
        keep, expected = keep[:-1], expected[:-1]
    assert torch.equal(keep, expected)


@given(videos, st.integers(1, 9), ratios, st.integers(0, 2**31))
def test_exact_count_whole_first_frame_lowest_first(frames, windows, ratio, seed):
    scores = torch.rand(sum(frames), windows, generator=torch.Generator().manual_seed(seed))
    keep = select_windows(scores, frames, ratio)
    for video, kept in zip(scores.split(frames), keep.split(frames), strict=True):
        drop = min(math.floor(windows * len(video) * ratio + 1e-6), windows * (len(video) - 1))
        assert (~kept).sum() == drop
        assert kept[0].all()
        if 0 < drop < windows * (len(video) - 1):
            assert video[1:][~kept[1:]].max() <= video[1:][kept[1:]].min()


@given(videos, st.integers(1, 9), ratios)
def test_equal_scores_and_nan_still_drop_exactly(frames, windows, ratio):
    expected = [t * windows - num_dropped(t, windows, ratio) for t in frames]
    for value in (0.5, math.nan):
        keep = select_windows(torch.full((sum(frames), windows), value), frames, ratio)
        assert [int(k.sum()) for k in keep.split(frames)] == expected


@pytest.mark.parametrize(
    ("name", "segments"), [("v6", [6]), ("v5_3", [5, 3]), ("mixed_pad", [3, 1, 1, 3, 1])]
)
def test_bias_and_its_gradient_equal_the_published_ones(name, segments):
    data = case("bias", name)
    scores = data["scores"].clone().requires_grad_()
    bias = attention_bias(scores, segments)
    torch.testing.assert_close(bias, data["bias"], rtol=1e-5, atol=3e-5)
    bias.backward(data["cotangent"])
    torch.testing.assert_close(scores.grad, data["grad_scores"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "floor"), [("min_half_w9", 0.5), ("degenerate_w9", math.exp(-2))])
def test_bias_with_another_floor_and_with_constant_rows(name, floor):
    data = case("bias", name)
    bias = attention_bias(data["scores"], [5], floor=floor)
    torch.testing.assert_close(bias, data["bias"], rtol=1e-5, atol=3e-5)


def test_bias_normalised_by_frame():
    data = case("bias", "v6")
    bias = attention_bias(data["scores"], [6], norm="frame")
    torch.testing.assert_close(bias.exp(), data["weight_frame_norm"], rtol=1e-5, atol=1e-6)


def test_prune_tokens_against_a_loop():
    x, scores = torch.randn(3, 10, 4), torch.rand(3, 10)
    out = prune_tokens(x, scores, 30)
    assert out.shape == (3, 7, 4)
    for row in range(3):
        best = sorted(sorted(range(10), key=lambda i: -scores[row, i])[:7])
        assert torch.equal(out[row], x[row, best])
    assert prune_tokens(x, scores, 0).equal(x)
    assert prune_tokens(x, scores, 100).shape == (3, 0, 4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: num_dropped(4, 9, 1.0), "prune_ratio is 1.0"),
        (lambda: select_windows(torch.rand(3, 4), [1, 1], 0.5), "must be positive and sum to the 3"),
        (lambda: prune_tokens(torch.rand(1, 4, 2), torch.rand(1, 4), 101), "k_percent is 101"),
        (lambda: prune_tokens(torch.rand(1, 4, 2), torch.rand(1, 3), 10), "scores are"),
        (lambda: attention_bias(torch.rand(2, 5), [2]), "not a square grid"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_least_range_limits_how_far_close_scores_are_stretched():
    scores = torch.rand(2, 9)
    scores[1] = torch.tensor([0.2, 0.25, 0.3, 0.1, 0.5, 0.9, 0.4, 0.4, 0.4])
    weight = attention_bias(scores, [2], pool_width=1, floor=0.2, least_range=0.5)[1].exp().reshape(3, 3)
    torch.testing.assert_close(
        weight[0], torch.tensor([0.84, 0.92, 1.0])
    )  # 0.1 and 0.05 of 0.5 below the highest
    torch.testing.assert_close(weight[1], torch.tensor([0.2, 0.6, 1.0]))  # far apart: as ever
    torch.testing.assert_close(weight[2], torch.ones(3))
    near = torch.full((2, 9), 0.3).add_(torch.linspace(0, 1e-3, 9)).requires_grad_()
    (steep,) = torch.autograd.grad(attention_bias(near, [2], pool_width=1)[:, 1].sum(), near)
    (mild,) = torch.autograd.grad(attention_bias(near, [2], pool_width=1, least_range=0.5)[:, 1].sum(), near)
    assert mild.abs().max() < 3 < steep.abs().max()
