from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import SiglipVisionConfig, SiglipVisionModel

from stts import STTSConfig, insert_stts
from stts.pruning.attention import (
    KeyBias,
    Ragged,
    attend_as_told,
    attention_forward,
    biased_attention,
    choose_backend,
    describe_attention,
    one_query_attention,
    ragged_attention,
)
from stts.pruning.flex import VARIANTS, flex
from stts.pruning.packing import Packing, plan_packing
from tests.helpers.molmo2 import build, make_inputs


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


@pytest.mark.parametrize("learned", [True, False])  # through the channels, and through the CPU's mask
def test_the_bias_keeps_its_precision_in_bfloat16(learned):
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 50, 72) for _ in range(3))
    bias = (-2 * torch.rand(1, 50)).requires_grad_(learned)
    exact = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[:, None, None], scale=72**-0.5)
    half = [x.bfloat16() for x in (q, k, v)]
    masked = F.scaled_dot_product_attention(
        *half, attn_mask=bias[:, None, None].bfloat16(), scale=72**-0.5
    ).float()
    ours = biased_attention(*half, bias, 72**-0.5).float()
    assert (ours - exact).abs().max() <= 1.5 * (masked - exact).abs().max()


@pytest.mark.parametrize("masked", ["", "bool", "added", "flat"])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_a_single_query_is_attended_as_by_sdpa(masked: str, key_heads: int):
    torch.manual_seed(0)
    q = torch.randn(5, 4, 1, 6, requires_grad=True)
    k, v = (torch.randn(5, key_heads, 9, 6, requires_grad=True) for _ in range(2))
    seen = torch.rand(5, 1, 1, 9) < 0.7
    masks = {"": None, "bool": seen, "added": torch.randn(5, 1, 1, 9), "flat": seen[:, 0, 0].long()}
    theirs = seen if masked == "flat" else masks[masked]
    ours = one_query_attention(q, k, v, masks[masked], 0.3)
    expected = F.scaled_dot_product_attention(q, k, v, theirs, scale=0.3, enable_gqa=key_heads < 4)
    torch.testing.assert_close(ours, expected)
    grads = torch.autograd.grad(ours.square().sum(), (q, k, v))
    torch.testing.assert_close(grads, torch.autograd.grad(expected.square().sum(), (q, k, v)))


def test_no_kernel_meets_a_batch_of_single_queries():
    """32,000 windows: more than FlashAttention's backward pass can count, were it to get them."""
    q, k, v = (torch.empty(32_000, 16, n, 72, dtype=torch.bfloat16, device="meta") for n in (1, 9, 9))
    with FlopCounterMode(display=False) as counter:
        out, _ = attention_forward(None, q, k, v, None, implementation="sdpa", scaling=1.0)
    assert out.shape == (32_000, 1, 16, 72)
    assert out.dtype == torch.bfloat16
    assert counter.get_total_flops() == 0  # that of SDPA's kernels would be counted


def frame_by_frame(q: Tensor, k: Tensor, v: Tensor, lengths: list[int], scaling: float) -> Tensor:
    """Explicit softmax within each frame."""
    start, out = 0, []
    for length in lengths:
        part = slice(start, start + length)
        weights = (q[:, part] @ k[:, part].transpose(1, 2) * scaling).softmax(-1)
        out.append(weights @ v[:, part])
        start += length
    return torch.cat(out, 1)


def ragged(frames: int, patches: int, head_dim: int, device: str = "cpu") -> tuple[Packing, list[Tensor]]:
    """A whole frame, an empty one and others half kept: their packing, and q, k, v of 2 heads."""
    torch.manual_seed(0)
    keep = torch.rand(frames, patches) < 0.5
    keep[0], keep[2] = True, False
    kept = int(keep.sum())
    inputs = [torch.randn(2, kept, head_dim, device=device, requires_grad=True) for _ in range(3)]
    return plan_packing(keep.to(device), kept), inputs


@pytest.fixture
def slow_flash(monkeypatch):
    """FlashAttention's varlen function in plain torch, where transformers would import the real one."""
    calls = []

    def varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, causal):
        lengths = cu_seqlens_q.diff().tolist()
        assert torch.equal(cu_seqlens_q, cu_seqlens_k)
        assert cu_seqlens_q.dtype == torch.int32
        assert max(lengths) <= max_seqlen_q == max_seqlen_k
        assert not causal
        assert all(x.is_contiguous() for x in (q, k, v))
        calls.append(lengths)
        inputs = (x.transpose(0, 1) for x in (q, k, v))
        return frame_by_frame(*inputs, lengths, softmax_scale).transpose(0, 1)

    def lazy_import(implementation):
        assert implementation == "flash_attention_2"
        return (None, varlen, None, None, None), (None, None)

    monkeypatch.setattr("stts.pruning.attention.is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr("stts.pruning.attention.is_flash_attn_3_available", lambda: False)
    monkeypatch.setattr("stts.pruning.attention.lazy_import_flash_attention", lazy_import)
    monkeypatch.setattr("stts.pruning.attention.HALF_ALONE", ())  # this one takes what it gets
    return calls


@pytest.mark.parametrize("backend", ["loop", "bins", "flash"])
def test_backends_attend_within_frames(backend, slow_flash):
    packing, inputs = ragged(5, 9, 8)
    out = ragged_attention(*inputs, packing, 0.35, backend)
    expected = frame_by_frame(*inputs, packing.lengths(), 0.35)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    cotangent = torch.randn_like(out)
    torch.testing.assert_close(
        torch.autograd.grad(out, inputs, cotangent),
        torch.autograd.grad(expected, inputs, cotangent),
        rtol=1e-5,
        atol=1e-5,
    )
    assert len(slow_flash) == (backend == "flash")


def test_flex_attends_within_frames():
    packing, inputs = ragged(6, 81, 12)  # K = 243, two blocks
    with torch.no_grad():
        out = ragged_attention(*inputs, packing, 0.35, "flex")
    expected = frame_by_frame(*inputs, packing.lengths(), 0.35)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="no backward on a CPU: there take attention=loop"):
        ragged_attention(*inputs, packing, 0.35, "flex")


def test_backends_differ_in_bfloat16_no_more_than_rounding_does(slow_flash):
    packing, inputs = ragged(5, 81, 72)
    cotangent = torch.randn_like(inputs[0])

    def run(attend: Callable[..., Tensor], dtype: torch.dtype) -> list[Tensor]:
        cast = [x.detach().to(dtype).requires_grad_() for x in inputs]
        out = attend(*cast)
        return [x.float() for x in (out, *torch.autograd.grad(out, cast, cotangent.to(dtype)))]

    exact = run(lambda *x: frame_by_frame(*x, packing.lengths(), 72**-0.5), torch.float32)
    errors = {}
    for name in ("loop", "bins", "flash"):
        found = run(lambda *x, name=name: ragged_attention(*x, packing, 72**-0.5, name), torch.bfloat16)
        errors[name] = [(x - y).detach().abs().max().item() for x, y in zip(found, exact, strict=True)]
    for name, found in errors.items():
        assert all(x <= 2 * y for x, y in zip(found, errors["loop"], strict=True)), name
    with torch.no_grad():
        half = [x.bfloat16() for x in inputs]
        flex = ragged_attention(*half, packing, 72**-0.5, "flex").float()
    assert (flex - exact[0]).abs().max() <= 2 * errors["loop"][0]


def test_the_whole_model_is_the_same_on_every_backend(slow_flash):
    inputs = make_inputs([[4], [7]])
    labels = inputs["input_ids"].masked_fill(inputs["mm_token_type_ids"] == 1, -100)

    def run(backend: str) -> tuple[Tensor, dict[str, Tensor]]:
        model = build(attention=backend).train()
        out = model(**inputs, labels=labels)
        out.loss.backward()
        return out.logits, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    logits, gradients = run("loop")
    for backend in ("bins", "flash"):
        ours, found = run(backend)
        torch.testing.assert_close(ours, logits, rtol=1e-5, atol=1e-5)
        for name, gradient in gradients.items():
            assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-7, name
    with torch.no_grad():
        flex = build(attention="flex").train()(**inputs).logits
    torch.testing.assert_close(flex, logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["varlen", "flash"])
def test_kernels_of_half_precision_refuse_others_by_name(backend):
    packing, inputs = ragged(3, 9, 8)
    with pytest.raises(ValueError, match=f"attention is '{backend}'.*torch.float32.*take attention=auto"):
        ragged_attention(*inputs, packing, 0.35, backend)


def test_queries_and_keys_that_a_norm_left_in_float32_follow_the_values():
    """As autocast leaves them; else "auto" would take float32's backend on a GPU, and kernels three dtypes."""
    keep = torch.tensor([[1, 1, 0], [1, 0, 1]]).bool()
    q, k, v = (torch.randn(1, 2, 4, 8) for _ in range(3))
    for how in (Ragged(plan_packing(keep, 4), "loop"), KeyBias(-torch.rand(1, 4))):
        half, mixed = (
            attend_as_told(*(x.to(dtype) for x in (q, k)), v.bfloat16(), how, 0.3)
            for dtype in (torch.bfloat16, torch.float32)
        )
        assert mixed.dtype == torch.bfloat16
        assert torch.equal(mixed, half)


def test_bins_are_planned_once_for_all_blocks(monkeypatch):
    packing, inputs = ragged(5, 9, 8)
    planned = []
    monkeypatch.setattr(Packing, "lengths", lambda self: planned.append(1) or self.cu_seqlens.diff().tolist())
    for _ in range(3):
        ragged_attention(*inputs, packing, 0.35, "bins")
    assert len(planned) == 1


def test_flex_gets_one_dtype_and_room_for_its_variants(monkeypatch):
    """Autocast leaves queries and keys float32 that a norm has made; shapes and modes need more than 8 graphs."""
    seen = []
    monkeypatch.setattr(
        "stts.pruning.flex.compile_friendly_flex_attention", lambda *x, **_: seen.append([y.dtype for y in x])
    )
    q, k, v = (torch.empty(1, 2, 300, 16, device="meta") for _ in range(3))
    with torch._dynamo.config.patch(recompile_limit=8):
        flex(q, k, v.bfloat16(), None, 1.0, True)
        assert torch._dynamo.config.recompile_limit == VARIANTS
    assert seen == [[torch.bfloat16] * 3]


def test_flash_attention_that_is_not_there_says_so(monkeypatch):
    for version in (2, 3):
        monkeypatch.setattr(f"stts.pruning.attention.is_flash_attn_{version}_available", lambda: False)
    packing, inputs = ragged(3, 9, 8)
    with pytest.raises(ValueError, match="neither FlashAttention 2 nor 3 can be used here"):
        ragged_attention(*(x.bfloat16() for x in inputs), packing, 0.35, "flash")


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["loop", "varlen", "flex", "bins", "flash"])
@pytest.mark.parametrize("head_dim", [64, 72])
def test_every_backend_agrees_on_a_gpu(backend, head_dim):
    if backend == "flash":
        pytest.importorskip("flash_attn")
    packing, inputs = ragged(12, 729, head_dim, "cuda")
    cotangent = torch.randn_like(inputs[0])

    def run(inputs: list[Tensor], backend: str) -> list[Tensor]:
        out = ragged_attention(*inputs, packing, head_dim**-0.5, backend)
        return [x.float() for x in (out, *torch.autograd.grad(out, inputs, cotangent.to(out.dtype)))]

    exact = run([x.detach().double().requires_grad_() for x in inputs], "loop")
    half = [x.detach().bfloat16().requires_grad_() for x in inputs]
    for ours, loop, truth in zip(run(half, backend), run(half, "loop"), exact, strict=True):
        assert (ours - truth).abs().max() <= 2 * (loop - truth).abs().max()
    if backend in ("flex", "bins"):  # the others take half precision alone
        for ours, truth in zip(run(inputs, backend), exact, strict=True):
            torch.testing.assert_close(ours, truth, rtol=1e-4, atol=1e-4)


def test_unknown_backend_is_named():
    packing = plan_packing(torch.ones(1, 2, dtype=torch.bool), 2)
    x = torch.zeros(1, 2, 4)
    with pytest.raises(ValueError, match="attention is 'magic'"):
        ragged_attention(x, x, x, packing, 1.0, "magic")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bias_channel_agrees_with_a_mask_on_a_gpu(dtype):
    torch.manual_seed(0)
    inputs = [torch.randn(3, 4, 729, 72, device="cuda", requires_grad=True) for _ in range(3)]
    bias = -2 * torch.rand(3, 729, device="cuda")
    bias.requires_grad_()
    cotangent = torch.randn_like(inputs[0])

    def run(attend: Callable[..., Tensor], dtype: torch.dtype) -> list[Tensor]:
        cast = [x.detach().to(dtype).requires_grad_() for x in inputs]
        out = attend(*cast)
        return [x.double() for x in (out, *torch.autograd.grad(out, (*cast, bias), cotangent.to(dtype)))]

    def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = bias[:, None, None].to(q.dtype).expand(-1, -1, q.shape[2], -1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=72**-0.5)

    exact, theirs = run(masked, torch.float64), run(masked, dtype)
    ours = run(lambda *x: biased_attention(*x, bias, 72**-0.5), dtype)
    for found, mask, truth in zip(ours, theirs, exact, strict=True):
        assert (found - truth).abs().max() <= 3 * (mask - truth).abs().max() + 1e-5


def test_what_attends_is_described(monkeypatch):
    for version in (2, 3):
        monkeypatch.setattr(f"stts.pruning.attention.is_flash_attn_{version}_available", lambda: False)
    model = build(attention="bins")
    expected = "ViT sdpa, biased block sdpa, ragged blocks bins, LLM sdpa"
    assert describe_attention(model) == expected
    with torch.no_grad():
        model(**make_inputs([[4]]))  # which reroutes the ViT's attention
    assert describe_attention(model) == expected
    model.stts = model.stts.replace(attention="auto")
    model.set_attn_implementation({"text_config": "eager"})
    words = "ragged blocks loop (auto: torch.float32 on cpu), LLM eager"
    assert describe_attention(model).endswith(words)
    host = insert_stts(
        SiglipVisionModel(SiglipVisionConfig(hidden_size=24, num_attention_heads=2)), STTSConfig()
    )
    assert describe_attention(host).endswith("ragged blocks loop (auto: torch.float32 on cpu)")
    host.stts = host.stts.replace(attention="flash")
    with pytest.raises(ValueError, match="neither FlashAttention 2 nor 3"):
        describe_attention(host)


@pytest.mark.parametrize(
    ("device", "dtype", "backend"),
    [
        ("cpu", torch.bfloat16, "loop"),
        ("cuda", torch.bfloat16, "varlen"),
        ("cuda", torch.float16, "varlen"),
        ("cuda", torch.float32, "bins"),
    ],
)
def test_auto_follows_device_and_dtype(device, dtype, backend):
    assert choose_backend(torch.device(device), dtype) == backend
