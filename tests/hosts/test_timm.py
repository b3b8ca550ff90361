"""timm's ViTs prune like others: held against all tokens with the dropped ones masked as keys."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stts import STTSConfig, attention_bias, insert_stts, remove_stts

pytest.importorskip("timm", exc_type=ImportError)

from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

SIZES = {"img_size": 24, "patch_size": 4, "embed_dim": 32, "depth": 7, "num_heads": 2, "num_classes": 3}
KINDS = {
    "vit": lambda: VisionTransformer(**SIZES, reg_tokens=2),
    "eva02": lambda: Eva(**SIZES, use_rot_pos_emb=True, swiglu_mlp=True, scale_mlp=True),
}
FRAMES = [4, 3]

kinds = pytest.mark.parametrize("kind", list(KINDS))


def built(kind: str, **settings: Any) -> tuple[nn.Module, nn.Module]:
    """A plain model and its pruning twin, whose scores are far apart."""
    torch.manual_seed(0)
    plain = KINDS[kind]().eval()
    for p in plain.parameters():
        if p.ndim > 1:
            nn.init.normal_(p, std=0.1)
    model = insert_stts(copy.deepcopy(plain), STTSConfig(pool_width=2, **settings))
    nn.init.normal_(model.scorer.fc3.weight, std=3.0)
    return plain, model


def frames() -> Tensor:
    return torch.randn(sum(FRAMES), 3, 24, 24, generator=torch.Generator().manual_seed(1))


class Masked(torch.overrides.TorchFunctionMode):
    """Every token stays; block by block, biases on the keys of a frame."""

    def __init__(self, bias: dict[int, Tensor]) -> None:
        super().__init__()
        self.bias, self.block = bias, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is F.scaled_dot_product_attention:
            kwargs["attn_mask"], self.block = self.bias.get(self.block), self.block + 1
        return func(*args, **kwargs)


@kinds
@torch.no_grad()
def test_survivors_say_what_they_would_if_the_dropped_were_masked(kind):
    plain, model = built(kind, prune_ratio=0.5)
    x, prefix = frames(), plain.num_prefix_tokens
    out = model(x, frames_per_video=FRAMES)
    assert out.keep.sum() == 63 - 18 - 13
    patches = out.keep.view(-1, 3, 3).repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1)
    gone = F.pad(torch.where(patches, 0.0, -1e9), (prefix, 0))[:, None, None]
    scored = F.pad(attention_bias(out.scores, FRAMES, 2, grid=(6, 6)), (prefix, 0))[:, None, None]
    with Masked({4: scored, 5: gone, 6: gone}):
        whole = plain.forward_features(x)
    torch.testing.assert_close(out.last_hidden_state, whole.flatten(0, 1)[out.token_index], rtol=0, atol=1e-5)
    unpruned = plain.forward_features(x).flatten(0, 1)[out.token_index]
    assert (out.last_hidden_state - unpruned).abs().max() > 1e-3


@kinds
def test_the_scorer_learns_and_the_model_of_before_comes_back(kind):
    plain, model = built(kind, prune_ratio=0.5)
    x = frames()
    model(x, frames_per_video=FRAMES).last_hidden_state.square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.scorer.parameters())
    model.stts = model.stts.replace(prune_ratio=0.0)
    with torch.no_grad():
        assert torch.equal(model(x), plain(x))
        remove_stts(model)
        assert type(model) is type(plain)
        assert list(model.state_dict()) == list(plain.state_dict())
        assert torch.equal(model(x), plain(x))


def test_what_cannot_be_pruned_is_refused():
    _, model = built("vit", prune_ratio=0.5)
    model.set_grad_checkpointing(True)
    with pytest.raises(ValueError, match="grad_checkpointing calls a VisionTransformer"):
        model(frames())
    model.set_grad_checkpointing(False)
    model.blocks[0].attn.fused_attn = False
    with pytest.raises(ValueError, match="is not fused"):
        model(frames())
