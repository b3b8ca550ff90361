from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from stts.attention import biased_attention, ragged_attention
from stts.packing import plan_packing


@pytest.mark.parametrize("head_dim", [8, 12, 72])
def test_bias_channel_equals_a_mask(head_dim):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, 7, head_dim, requires_grad=True) for _ in range(3))
    bias = torch.randn(2, 7, requires_grad=True)
    cotangent = torch.randn(2, 3, 7, head_dim)
    out = biased_attention(q, k, v, bias, 0.3)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[:, None, None], scale=0.3)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    grads = torch.autograd.grad(out, (q, k, v, bias), cotangent)
    wanted = torch.autograd.grad(expected, (q, k, v, bias), cotangent)
    torch.testing.assert_close(grads, wanted, rtol=1e-5, atol=1e-5)


def test_bias_channel_keeps_its_precision_in_bfloat16():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 50, 72) for _ in range(3))
    bias = -2 * torch.rand(1, 50)
    exact = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[:, None, None], scale=72**-0.5)
    half = [x.bfloat16() for x in (q, k, v)]
    masked = F.scaled_dot_product_attention(
        *half, attn_mask=bias[:, None, None].bfloat16(), scale=72**-0.5
    ).float()
    ours = biased_attention(*half, bias, 72**-0.5).float()
    assert (ours - exact).abs().max() <= 1.5 * (masked - exact).abs().max()


@pytest.mark.parametrize("backend", ["loop", "bins"])
def test_backends_attend_within_frames(backend):
    torch.manual_seed(0)
    keep = torch.rand(5, 9) < 0.5
    keep[0], keep[2] = True, False  # a whole frame and an empty one
    packing = plan_packing(keep, int(keep.sum()))
    q, k, v = (torch.randn(2, int(keep.sum()), 8, requires_grad=True) for _ in range(3))
    out = ragged_attention(q, k, v, packing, 0.35, backend)
    start, expected = 0, []
    for length in keep.sum(1).tolist():
        part = slice(start, start + length)
        weights = (q[:, part] @ k[:, part].transpose(1, 2) * 0.35).softmax(-1)
        expected.append(weights @ v[:, part])
        start += length
    expected = torch.cat(expected, 1)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    cotangent = torch.randn_like(out)
    torch.testing.assert_close(
        torch.autograd.grad(out, (q, k, v), cotangent),
        torch.autograd.grad(expected, (q, k, v), cotangent),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.gpu
@pytest.mark.parametrize("head_dim", [64, 72])
def test_varlen_agrees_with_the_loop(head_dim):
    torch.manual_seed(0)
    keep = (torch.rand(12, 81) < 0.5).cuda()
    packing = plan_packing(keep, int(keep.sum()))
    q, k, v = (torch.randn(4, int(keep.sum()), head_dim, device="cuda") for _ in range(3))
    exact = ragged_attention(q, k, v, packing, head_dim**-0.5, "loop")
    half = [x.bfloat16() for x in (q, k, v)]
    loop = ragged_attention(*half, packing, head_dim**-0.5, "loop").float()
    varlen = ragged_attention(*half, packing, head_dim**-0.5, "varlen").float()
    assert (varlen - exact).abs().max() <= 2 * (loop - exact).abs().max()


def test_unknown_backend_is_named():
    packing = plan_packing(torch.ones(1, 2, dtype=torch.bool), 2)
    x = torch.zeros(1, 2, 4)
    with pytest.raises(ValueError, match="attention is 'magic'"):
        ragged_attention(x, x, x, packing, 1.0, "magic")
