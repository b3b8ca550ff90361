from __future__ import annotations

import math

import pytest
import torch
from goldens import golden, golden_vit
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel
from transformers.models.molmo2.modeling_molmo2 import Molmo2VisionModel

from stts import STTSConfig, attention_bias, insert_stts, temporal_aux_loss

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 7, "num_attention_heads": 4}


def siglip(image: int = 48) -> SiglipVisionModel:
    torch.manual_seed(0)
    return SiglipVisionModel(SiglipVisionConfig(**SIZES, image_size=image, patch_size=8)).eval()


def clip(image: int = 48) -> CLIPVisionModel:
    torch.manual_seed(0)
    return CLIPVisionModel(CLIPVisionConfig(**SIZES, image_size=image, patch_size=8)).eval()


def slow_reference(blocks, x: torch.Tensor, keep: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Whole frames in every block, dropped tokens masked out as keys: the kept ones come out the same."""
    for i, block in enumerate(blocks):
        mask = None
        if i == 4:
            mask = bias[:, None, None].expand(-1, 1, x.shape[1], -1)
        elif i > 4:
            mask = torch.zeros(keep.shape).masked_fill(~keep, -torch.inf)[:, None, None]
            mask = mask.expand(-1, 1, x.shape[1], -1)
        x = block(x, mask)
    return x


@pytest.mark.parametrize(("make", "prefix", "image"), [(siglip, 0, 48), (clip, 1, 48), (siglip, 0, 64)])
@torch.no_grad()
def test_kept_tokens_equal_masked_whole_frames(make, prefix, image):
    model, pixels = make(image), torch.randn(7, 3, image, image)
    side = image // 8
    insert_stts(model, STTSConfig(prune_ratio=0.6))
    out = model(pixels, frames_per_video=[4, 3])
    tokens = torch.zeros(7, prefix + side * side, dtype=torch.bool).flatten()
    windows = math.ceil(side / 3) ** 2
    tokens[out.token_index] = True
    tokens = tokens.view(7, -1)
    assert out.keep.sum() == 7 * windows - int(4 * windows * 0.6) - int(3 * windows * 0.6)
    assert tokens[:, :prefix].all()
    assert tokens[[0, 4]].all()

    bias = attention_bias(out.scores, [4, 3], grid=(side, side))
    bias = nn.functional.pad(bias, (prefix, 0))
    x = model.embeddings(pixels)
    x = x if prefix == 0 else model.pre_layrnorm(x)
    expected = slow_reference(model.encoder.layers, x, tokens, bias)
    expected = expected if prefix else model.post_layernorm(expected)
    dense = out.dense()
    torch.testing.assert_close(dense, expected * tokens[..., None], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [siglip, clip])
@torch.no_grad()
def test_without_pruning_the_model_is_untouched(make):
    pixels = torch.randn(3, 3, 48, 48)
    expected = make()(pixels)
    model = insert_stts(make(), STTSConfig(prune_ratio=0))
    assert torch.equal(model(pixels).last_hidden_state, expected.last_hidden_state)
    model.stts = model.stts.replace(prune_ratio=0.5)
    assert len(model(pixels).last_hidden_state) < 3 * expected.last_hidden_state.shape[1]
    still = model(pixels, frames_per_video=[1, 1, 1])  # images are never pruned
    assert torch.equal(still.last_hidden_state, expected.last_hidden_state)


def test_molmo2_tower_gives_the_published_features():
    source, data = golden_vit("vit_weights_small", 4, 9, 4), golden("vit_forward_a")
    tower = Molmo2VisionModel(source.config)
    tower.load_state_dict({k: v for k, v in source.state_dict().items() if "scorer" not in k})
    insert_stts(tower, STTSConfig(scorer_hidden_dims=(96, 96), scorer_activation="silu"))
    tower.scorer.load_state_dict(source.scorer.state_dict())
    dense = tower.eval()(data["pixels"]).dense()
    torch.testing.assert_close(dense, data["hidden_6"], rtol=1e-5, atol=4e-5)


def test_the_scorer_learns_from_both_losses():
    model = insert_stts(siglip(), STTSConfig())
    out = model(torch.randn(4, 3, 48, 48))
    loss = out.last_hidden_state.square().mean() + 0.5 * temporal_aux_loss(out.scores, out.scored, [4])
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in model.scorer.parameters())


def test_what_cannot_be_pruned_is_named():
    with pytest.raises(ValueError, match="cannot prune a Linear; supported: Molmo2VisionModel"):
        insert_stts(nn.Linear(2, 2), STTSConfig())
    model = insert_stts(siglip(), STTSConfig())
    with pytest.raises(ValueError, match="already has a scorer"):
        insert_stts(model, STTSConfig())
