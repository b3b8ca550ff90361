from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from transformers import (
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PreTrainedModel,
    Siglip2VisionModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionModel,
)
from transformers.models.molmo2.modeling_molmo2 import Molmo2VisionModel

from stts import STTSConfig, attention_bias, insert_stts, temporal_aux_loss
from tests.helpers.goldens import golden, golden_vit
from tests.helpers.vision_models import SIZES, clip, siglip


def dinov2(image: int = 48) -> Dinov2Model:
    torch.manual_seed(0)
    config = Dinov2Config(**SIZES, image_size=48, patch_size=8, mlp_ratio=2, layerscale_value=0.5)
    return Dinov2Model(config).eval()


def registers(image: int = 48) -> Dinov2WithRegistersModel:
    torch.manual_seed(0)
    sizes = {"image_size": 48, "patch_size": 8, "mlp_ratio": 2, "layerscale_value": 0.5}
    model = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SIZES, **sizes, num_register_tokens=3))
    nn.init.normal_(model.embeddings.register_tokens)
    return model.eval()


def embedded(model: PreTrainedModel, pixels: torch.Tensor) -> torch.Tensor:
    x = model.embeddings(pixels)
    return model.pre_layrnorm(x) if isinstance(model, CLIPVisionModel) else x


def finished(model: PreTrainedModel, x: torch.Tensor) -> torch.Tensor:
    norm = getattr(model, "layernorm", getattr(model, "post_layernorm", None))
    return x if isinstance(model, CLIPVisionModel) else norm(x)


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


@pytest.mark.parametrize(
    ("make", "prefix", "image"),
    [
        (siglip, 0, 48),
        (siglip, 0, 64),
        (siglip, 0, 112),
        (clip, 1, 48),
        (clip, 1, 56),
        (dinov2, 1, 48),
        (registers, 4, 48),
        (registers, 4, 72),
    ],
)
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
    blocks = model.encoder.layer if hasattr(model.encoder, "layer") else model.encoder.layers
    expected = finished(model, slow_reference(blocks, embedded(model, pixels), tokens, bias))
    dense = out.dense()
    torch.testing.assert_close(dense, expected * tokens[..., None], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [siglip, clip, dinov2, registers])
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


@torch.no_grad()
def test_siglip2_of_fixed_resolution_loads_as_siglip_and_is_pruned(tmp_path):
    """Its checkpoints say model_type siglip, with SigLIP 2's vocabulary and sizes."""
    sizes = {**SIZES, "image_size": 56, "patch_size": 8, "hidden_act": "gelu_pytorch_tanh"}
    text = {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    torch.manual_seed(0)
    both = SiglipModel(SiglipConfig(vision_config=sizes, text_config={**text, "projection_size": 32}))
    both.save_pretrained(tmp_path)
    model, pixels = SiglipVisionModel.from_pretrained(tmp_path).eval(), torch.randn(4, 3, 56, 56)
    whole = both.eval().vision_model(pixels).last_hidden_state
    insert_stts(model, STTSConfig(prune_ratio=0.5))
    out = model(pixels)
    assert out.dense().shape == whole.shape == (4, 49, 32)
    assert out.keep.sum() == 4 * 9 - 18
    images = model(pixels, frames_per_video=[1] * 4)
    torch.testing.assert_close(images.last_hidden_state, whole)


def test_what_cannot_be_pruned_is_named():
    with pytest.raises(ValueError, match="cannot prune a Siglip2VisionModel"):  # of any resolution
        insert_stts(Siglip2VisionModel(Siglip2VisionModel.config_class(**SIZES)), STTSConfig())
    with pytest.raises(ValueError, match="cannot prune a Linear; supported: Molmo2VisionModel"):
        insert_stts(nn.Linear(2, 2), STTSConfig())
    model = insert_stts(siglip(), STTSConfig())
    with pytest.raises(ValueError, match="already has a scorer"):
        insert_stts(model, STTSConfig())
