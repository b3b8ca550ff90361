from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import Molmo2VisionModel

from stts.pruning.config import STTSConfig
from stts.pruning.losses import temporal_aux_loss
from stts.pruning.packing import unpack
from tests.helpers.goldens import PUBLISHED_SCORER, Features, case, encode, golden, golden_vit, our_name

SMALL = {"name": "vit_weights_small", "heads": 4, "grid": 9, "patch": 4}
LARGE = {"name": "vit_weights_grid27", "heads": 2, "grid": 27, "patch": 2}


def run(vit: Molmo2VisionModel, pixels: torch.Tensor, videos: list[int], **stts) -> Features:
    return encode(vit, pixels, STTSConfig(**stts), videos, [3, 4, 5, 6])


@pytest.mark.parametrize("attention", ["loop", "bins"])
@pytest.mark.parametrize(
    ("file", "weights", "videos", "suffix"),
    [
        ("vit_forward_a", SMALL, [8], ""),
        ("vit_forward_b", SMALL, [8], "_no_refill"),
        ("vit_forward_g27", LARGE, [5], ""),
    ],
)
def test_features_equal_the_published_ones(file, weights, videos, suffix, attention):
    data = golden(file)
    features = run(golden_vit(**weights), data["pixels"], videos, attention=attention)
    torch.testing.assert_close(features.scores, data["scores"], rtol=1e-5, atol=6e-6)
    mask = data["valid_mask"].bool()
    for layer in (5, 6):
        ours = unpack(features.hidden_states[layer], features.packing)
        expected = data.get(f"hidden_{layer}{suffix}", data[f"hidden_{layer}"]) * mask[..., None]
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=4e-5)
    if "hidden_4" in data:
        dense = unpack(features.hidden_states[4], features.packing)
        torch.testing.assert_close(dense, data["hidden_4"] * mask[..., None], rtol=1e-5, atol=3e-5)


def test_putting_lone_frames_back_gives_the_published_batch_dependent_features():
    data = golden("vit_forward_b")
    features = run(golden_vit(**SMALL), data["pixels"], [8], put_back=True)
    mask = data["valid_mask"][..., None].bool()
    for layer in (5, 6):
        ours = unpack(features.hidden_states[layer], features.packing)
        torch.testing.assert_close(ours, data[f"hidden_{layer}"] * mask, rtol=1e-5, atol=4e-5)
    assert (data["hidden_6"] - data["hidden_6_no_refill"]).abs().max() > 0.5


def test_images_between_videos_stay_whole():
    data = golden("vit_forward_d")  # 5 frames, two images, 4 frames, one frame of padding
    features = run(golden_vit(**SMALL), data["pixels"][:11], [5, 1, 1, 4])
    expected = data["scores_zero_before_each_segment"][:11]
    videos = [0, 1, 2, 3, 4, 7, 8, 9, 10]
    torch.testing.assert_close(features.scores[videos], expected[videos], rtol=1e-5, atol=6e-6)
    ours = unpack(features.hidden_states[6], features.packing)
    mask = data["valid_mask"][:11, :, None].bool()
    torch.testing.assert_close(ours, data["hidden_6"][:11] * mask, rtol=1e-5, atol=4e-5)


def test_gradient_of_late_layers_reaches_the_scorer_as_published():
    vit, data, grads = golden_vit(**SMALL), golden("vit_forward_a"), golden("grads_a")
    features = run(vit, data["pixels"], [8])
    late = [unpack(features.hidden_states[i], features.packing) for i in (5, 6)]
    loss = (late[0] * grads["R_5"]).sum() + (late[1] * grads["R_6"]).sum()
    torch.testing.assert_close(loss, grads["loss"], rtol=1e-5, atol=1e-4)
    loss.backward()
    ours = scorer_gradients(vit)
    published = {k.removeprefix("grad/"): v for k, v in grads.items() if k.startswith("grad/")}
    assert len(published) == 8
    for name, expected in published.items():
        difference = (ours[name] - expected).norm() / expected.norm()
        assert difference < 1e-4, name


def test_gradient_of_the_auxiliary_loss_as_published():
    vit, data = golden_vit(**SMALL), golden("vit_forward_a")
    features = run(vit, data["pixels"], [8])
    loss = 0.5 * temporal_aux_loss(features.scores, features.scored, [8])
    torch.testing.assert_close(loss, data["train/aux_loss"], rtol=1e-5, atol=1e-6)
    loss.backward()
    published = case("grads_a", "aux_grad")
    ours = scorer_gradients(vit) | {
        "transformer.resblocks.0.attention.wq.weight": vit.layers[0].self_attn.q_proj.weight.grad
    }
    for name, expected in published.items():
        assert (ours[name] - expected).norm() / expected.norm() < 1e-4, name


def scorer_gradients(vit: Molmo2VisionModel) -> dict[str, torch.Tensor]:
    """By published name."""
    gradients = {name: p.grad for name, p in vit.named_parameters()}
    names = (k for k in golden("vit_weights_small") if k.startswith(PUBLISHED_SCORER))
    return {name: gradients[our_name(name)] for name in names}


def test_without_a_floor_below_one_no_gradient_reaches_the_scorer():
    vit, data = golden_vit(**SMALL), golden("vit_forward_a")
    run(vit, data["pixels"], [8], bias_floor=1.0).hidden_states[6].square().sum().backward()
    assert all(p.grad.abs().max() == 0 for p in vit.scorer.parameters())


def test_dropped_patches_are_not_computed():
    vit, data = golden_vit(**SMALL), golden("vit_forward_a")
    seen = []
    vit.layers[5].register_forward_hook(lambda block, args, out: seen.append(tuple(out.shape)))
    run(vit, data["pixels"], [8])
    assert seen == [(1, 324, 48)]  # 8 frames of 81 patches, half of them


@pytest.mark.parametrize("policy", ["random", "temporal"])
def test_unlearned_policies_keep_the_same_budget(policy):
    torch.manual_seed(0)
    vit, data = golden_vit(**SMALL), golden("vit_forward_a")
    features = run(vit, data["pixels"], [5, 3], policy=policy)
    assert features.keep.sum() == 72 - 22 - 13
    assert features.keep[[0, 5]].all()
    if policy == "temporal":
        x = features.scored.detach().view(8, 3, 3, 3, 3, 48).transpose(2, 3).reshape(8, 9, -1)
        similarity = nn.functional.cosine_similarity(x[2], x[1], dim=-1)
        torch.testing.assert_close(features.scores[2], 1 - similarity, rtol=1e-5, atol=1e-6)


def test_a_scorer_needs_blocks_behind_it():
    with pytest.raises(ValueError, match="insert_after is 5, must leave blocks to prune: below 5"):
        golden_vit(**SMALL, insert_after=5)
