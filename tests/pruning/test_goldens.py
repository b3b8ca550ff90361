"""The cases of the published implementation that concern no single module, or where we differ on purpose."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from stts import STTSScorer, attention_bias, select_windows, temporal_aux_loss
from stts.pruning.attention import KeyBias, install
from stts.pruning.config import STTSConfig
from stts.pruning.packing import bin_slots, plan_bins, plan_packing, put_back_lone_frames, unpack
from stts.pruning.selection import num_dropped
from stts.pruning.windows import to_windows
from tests.helpers.goldens import FOLDER, case, encode, golden, golden_vit, our_name

SMALL = {"name": "vit_weights_small", "heads": 4, "grid": 9, "patch": 4}


def test_pruning_off_is_the_plain_vit():
    vit, data = golden_vit(**SMALL), golden("vit_forward_c")
    hidden = vit(data["pixels"], output_hidden_states=True).hidden_states
    images = encode(vit, data["pixels"], STTSConfig(), (1,) * 8, [5, 6])  # which lose nothing
    for i in (5, 6):
        torch.testing.assert_close(hidden[i + 1], data[f"hidden_{i}"], rtol=1e-5, atol=2e-5)
        ours = unpack(images.hidden_states[i], images.packing)
        torch.testing.assert_close(ours, data[f"hidden_{i}"], rtol=1e-5, atol=2e-5)


def test_the_bias_in_every_later_block_and_nothing_removed():
    vit, data = golden_vit(**SMALL), golden("vit_forward_e")
    install(vit.config)
    x = vit.patch_embedding(data["pixels"]) + vit.positional_embedding
    for block in vit.layers[:4]:
        x = block(x, None)
    scores = vit.scorer.score_windows(x, [8])
    torch.testing.assert_close(scores, data["scores"], rtol=1e-5, atol=6e-6)
    bias = attention_bias(scores, [8])
    torch.testing.assert_close(bias, data["bias"], rtol=1e-5, atol=1e-4)
    for i in (4, 5, 6):
        x = vit.layers[i](x, KeyBias(bias))
        if i > 4:
            torch.testing.assert_close(x, data[f"hidden_{i}"], rtol=1e-5, atol=4e-5)


def test_bias_and_pooled_windows_of_a_whole_vit():
    vit, data = golden_vit(**SMALL), golden("vit_forward_a")
    features = encode(vit, data["pixels"], STTSConfig(), (8,), [3, 4, 5, 6])
    torch.testing.assert_close(attention_bias(features.scores, [8]), data["bias"], rtol=1e-5, atol=1e-4)
    whole = vit(data["pixels"], output_hidden_states=True).hidden_states
    torch.testing.assert_close(whole[4], data["hidden_3"], rtol=1e-5, atol=2e-5)
    late = torch.cat([unpack(features.hidden_states[i], features.packing) for i in (5, 6)], -1)
    pooled = to_windows(late, (9, 9), 3).mean(2)[features.keep]
    torch.testing.assert_close(pooled, data["train/pooled"], rtol=1e-5, atol=2e-5)


def test_gradient_norms_of_every_parameter():
    """Of the late layers and of the auxiliary loss; key biases, where softmax leaves rounding alone, aside."""
    norms = json.loads((FOLDER / "grads_a.json").read_text())
    vit, data, grads = golden_vit(**SMALL), golden("vit_forward_a"), golden("grads_a")
    features = encode(vit, data["pixels"], STTSConfig(), (8,), [5, 6])
    late = [unpack(features.hidden_states[i], features.packing) for i in (5, 6)]
    losses = {
        "late_layers": (late[0] * grads["R_5"]).sum() + (late[1] * grads["R_6"]).sum(),
        "auxiliary_loss": 0.5 * temporal_aux_loss(features.scores, features.scored, [8]),
    }
    for name, loss in losses.items():
        vit.zero_grad()
        loss.backward(retain_graph=True)
        ours = {key: p.grad for key, p in vit.named_parameters() if p.grad is not None}
        checked = 0
        for key, norm in norms[name].items():
            if key.endswith("wk.bias"):
                continue
            gradient = ours.get(our_name(key))
            torch.testing.assert_close(
                0.0 if gradient is None else float(gradient.norm()), norm, rtol=1e-4, atol=1e-7
            )
            checked += gradient is not None
        assert checked > 60


def test_the_frame_before_a_later_video_is_the_previous_video_there():
    """Published scores of two videos are ours of one video as long as both."""
    data = case("scorer", "two_videos")
    weights = {k.removeprefix("weights/"): v for k, v in data.items() if k.startswith("weights/")}
    scorer = STTSScorer.from_published(weights, 4)
    ours = scorer.score_windows(data["hidden"], [7])
    torch.testing.assert_close(ours, data["scores"], rtol=1e-5, atol=2e-6)
    apart = scorer.score_windows(data["hidden"], [4, 3])
    differing = (apart - data["scores"]).abs().amax(1) > 1e-4
    assert differing.tolist() == [False] * 4 + [True] + [False] * 2


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.8])
@pytest.mark.parametrize(
    ("name", "segments", "padding"),
    [("batch2", [5, 1, 1, 1, 4, 1, 1, 1, 1], [7, 12, 13, 14, 15]), ("one_frame", [1, 4], [])],
)
def test_keep_sets_of_two_rows_and_of_one_frame(name, segments, padding, ratio):
    """A single frame, which loses a share of itself there, stays whole here."""
    data = case("select", name)
    expected = data.get(f"r{ratio}/window_keep_capped", data[f"r{ratio}/window_keep"]).bool()
    real = torch.tensor([f not in padding for f in range(len(expected))])
    assert torch.equal(select_windows(data["scores"], segments, ratio)[real], expected[real])


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.8])
def test_counting_from_a_later_frame_is_a_smaller_ratio(ratio):
    """prune_from_frame = 2 there takes its share of 6 frames of 8, from all of them."""
    data = case("select", "from_frame2")
    keep = select_windows(data["scores"], [8], ratio * 6 / 8)
    assert torch.equal(keep, data[f"r{ratio}/window_keep"].bool())


@pytest.mark.parametrize(("windows", "rounded"), [(81, 12), (9, 7)])
def test_counts_are_exact_where_the_published_ones_are_rounded(windows, rounded):
    table, ratios = golden("select")[f"counts_w{windows}/drop_count"], golden("select")["counts/ratios"]
    differing = 0
    for row, ratio in zip(table.tolist(), ratios.tolist(), strict=True):
        for frames, published in enumerate(row, 1):
            exact = math.floor(Fraction(str(round(ratio, 2))) * windows * frames)
            assert num_dropped(frames, windows, ratio) == min(exact, windows * (frames - 1))
            assert abs(published - exact) <= 1
            differing += published != exact
    assert differing == rounded


def test_auxiliary_loss_with_images_and_padding_between():
    data = case("aux_loss", "mixed_pad")
    scores = data["scores"].clone().requires_grad_()
    loss = temporal_aux_loss(scores, data["hidden"], [4, 1, 1, 5, 1])
    torch.testing.assert_close(loss, data["loss_raw_within_video"], rtol=1e-5, atol=1e-7)
    loss.backward()
    torch.testing.assert_close(scores.grad, data["grad_scores_raw_within_video"], rtol=1e-5, atol=1e-8)


def lone_empty(data: dict[str, Tensor]) -> Tensor:
    """The only frame without tokens in a batch, which counts as alone there, in a bin of its own, for nothing."""
    return data["alone"].bool() & (data["kept_count"] == 0)


@pytest.mark.parametrize("name", ["bernoulli", "windows", "one_empty", "two_empty", "full", "ties", "single"])
def test_put_back_patches_are_the_published_ones(name):
    data = case("pack", name)
    keep = data["keep"].bool()
    packing = put_back_lone_frames(plan_packing(keep, int(keep.sum())))
    ours = torch.zeros(keep.numel(), dtype=torch.bool)
    ours[packing.index] = True
    expected = (keep | data["refilled"].bool()) & ~lone_empty(data)[:, None]
    assert torch.equal(ours.view_as(keep), expected)


def test_one_empty_frame_needs_no_bin():
    data = case("pack", "one_empty")
    bins, there = plan_bins(data["kept_count"].tolist(), 81), ~lone_empty(data)
    assert bins.num_bins == data["n_bins"] - 1
    assert torch.tensor(bins.bin_of)[there].tolist() == data["bin"][there].tolist()
    assert torch.tensor(bins.start_of)[there].tolist() == data["start"][there].tolist()


@pytest.mark.parametrize("name", ["two_empty", "full", "ties", "single"])
def test_packed_rows_are_the_published_ones(name):
    data = case("pack", name)
    keep, lengths = data["keep"].bool(), data["kept_count"].tolist()
    slots, _ = bin_slots(plan_bins(lengths, 81), lengths)
    rows = torch.zeros(int(data["n_bins"]) * 81, 2).index_copy(0, slots, data["x"][keep])
    assert torch.equal(rows.view(-1, 81, 2), data["packed"])


def test_packed_rows_see_what_they_see_there():
    data = case("pack", "windows")
    lengths = data["kept_count"].tolist()
    _, segments = bin_slots(plan_bins(lengths, 81), lengths)
    mask = (segments[:, :, None] == segments[:, None]) & (segments >= 0)[:, :, None]
    mask[data["bin"][data["alone"].bool()].long()] = True  # put back
    assert torch.equal(mask, data["attn_mask"].bool())
