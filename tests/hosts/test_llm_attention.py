from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, create_mask, flex_attention

from stts import STTSConfig, STTSMolmo2ForConditionalGeneration
from stts.hosts.folders import ModelSpec
from stts.hosts.llm_attention import choose_llm_attention, llm_block_mask
from stts.hosts.load import load_model
from stts.pruning.flex import BLOCK, block_mask
from stts.pruning.packing import plan_packing
from tests.helpers.mixed_batches import alone, by_example, together
from tests.helpers.molmo2 import IMAGE, RefuseHostReads, build, make_inputs, tiny_config


def slow_mask(segments: Tensor, free: Tensor) -> Tensor:
    """(L,), (L,) -> (L, L), entry by entry."""
    tokens = list(enumerate(zip(segments.tolist(), free.tolist(), strict=True)))
    return torch.tensor([[s == t and (k <= q or (f and g)) for k, (t, g) in tokens] for q, (s, f) in tokens])


runs = st.lists(st.tuples(st.integers(1, 90), st.booleans(), st.booleans()), min_size=1, max_size=7)


@settings(max_examples=12, deadline=None)
@given(runs)
def test_block_mask_says_what_the_entries_say(runs):
    """runs: (length, begins a segment, free) of consecutive tokens, up to 630, five blocks."""
    segments = torch.cat(
        [torch.full((n,), sum(s for _, s, _ in runs[: i + 1])) for i, (n, _, _) in enumerate(runs)]
    )
    free = torch.cat([torch.full((n,), kind) for n, _, kind in runs])
    expected = slow_mask(segments, free)
    mask = block_mask(segments[None], free[None])
    length = len(segments)
    assert mask.shape == (1, 1, length, length)
    assert torch.equal(create_mask(mask.mask_mod, 1, 1, length, length, "cpu")[0, 0], expected)
    count = -(-length // BLOCK)
    padded = torch.zeros(count * BLOCK, count * BLOCK, dtype=torch.bool)
    padded[:length, :length] = expected
    blocks = padded.unflatten(1, (count, BLOCK)).unflatten(0, (count, BLOCK)).transpose(1, 2).flatten(2)
    partial, whole = (
        listed(mask.kv_num_blocks, mask.kv_indices),
        listed(mask.full_kv_num_blocks, mask.full_kv_indices),
    )
    assert (whole <= blocks.all(2)).all()  # no rule is asked there
    assert (blocks.any(2) <= (partial | whole)).all()  # nothing is left out
    assert not (partial & whole).any()


def listed(num: Tensor, index: Tensor) -> Tensor:
    """Blocks of each row of a BlockMask as (count, count) bool."""
    dense = torch.zeros(index.shape[-2:], dtype=torch.bool)
    for row, (n, places) in enumerate(zip(num[0, 0], index[0, 0], strict=True)):
        dense[row, places[:n].long()] = True
    return dense


def test_blocks_nobody_looks_at_are_left_out():
    segments = torch.arange(8).repeat_interleave(BLOCK)[None]
    assert block_mask(segments).sparsity() == pytest.approx(100 * 7 / 8)
    causal = block_mask(
        torch.zeros(1, 8 * BLOCK, dtype=torch.int32), torch.zeros(1, 8 * BLOCK, dtype=torch.bool)
    )
    assert int(causal.full_kv_num_blocks.sum()) == 28
    assert int(causal.kv_num_blocks.sum()) == 8


def test_making_a_block_mask_waits_for_no_device():
    keep = torch.rand(6, 81) < 0.5
    packing = plan_packing(keep, int(keep.sum()))
    batch = together(alone(), "packed")
    with RefuseHostReads():
        assert packing.block_mask.shape[2] == len(packing.index)
        text = (batch["attention_mask"], batch["mm_token_type_ids"], batch["sequence_ids"])
        assert llm_block_mask(*text, None).shape[2] == batch["input_ids"].shape[1]


def with_attention(name: str, dtype: torch.dtype = torch.float32, **stts):
    model = build(**stts).to(dtype)
    model.set_attn_implementation({"text_config": name})
    assert model.config.text_config._attn_implementation == name
    return model


@pytest.fixture
def plain_flex(monkeypatch):
    """transformers' flex attention without torch.compile, which takes a minute on a CPU."""
    monkeypatch.setattr(
        "transformers.masking_utils.create_block_mask",
        lambda _compile, **options: create_block_mask(**options),
    )
    monkeypatch.setattr(
        "transformers.integrations.flex_attention.compile_friendly_flex_attention",
        lambda q, k, v, training, **options: flex_attention(q, k, v, **options),
    )


def real_logits(model, batch: dict[str, Tensor], how: str) -> Tensor:
    """Logits of the survivors of all rows, padding left out."""
    out = model(**batch)
    return torch.cat(
        by_example(out.logits, out.keep_mask.sum(1).tolist(), how if len(out.logits) > 1 else "right")
    )


@pytest.mark.parametrize("name", ["eager", "block_sparse", "flex_attention"])
@pytest.mark.parametrize("how", ["left", "right", "packed"])
@pytest.mark.parametrize("ratio", [0.0, 0.6])
@torch.no_grad()
def test_every_attention_gives_the_same_logits(name, how, ratio, plain_flex):
    batch = together(alone(), how)
    expected = real_logits(with_attention("sdpa", prune_ratio=ratio), batch, how)
    ours = real_logits(with_attention(name, prune_ratio=ratio), batch, how)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_in_bfloat16_they_differ_no_more_than_rounding_does():
    batch = together(alone(), "packed")
    exact = real_logits(build(prune_ratio=0.0), batch, "packed")
    error = {
        name: (
            real_logits(with_attention(name, torch.bfloat16, prune_ratio=0.0), batch, "packed") - exact
        ).abs()
        for name in ("sdpa", "eager", "block_sparse")
    }
    assert max(e.max() for e in error.values()) <= 2 * error["sdpa"].max()
    assert max(e.mean() for e in error.values()) <= 1.2 * error["sdpa"].mean()


def test_eager_and_sdpa_give_the_same_gradient():
    batch, gradients = together(alone(), "packed"), []
    for name in ("sdpa", "eager"):
        model = with_attention(name, prune_ratio=0.6)
        labels = batch["input_ids"].masked_fill(batch["mm_token_type_ids"] == 1, -100)
        model(**batch, labels=labels).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for name, expected in gradients[0].items():
        assert (gradients[1][name] - expected).norm() <= 1e-5 * expected.norm() + 1e-7, name


@pytest.mark.parametrize("ratio", [0.0, 0.6])
def test_block_sparse_generates_what_sdpa_generates(ratio):
    inputs = make_inputs([[4], [IMAGE, 3], []], pad="left")
    options = {"max_new_tokens": 6, "num_beams": 2, "do_sample": False, "output_scores": True}
    options["return_dict_in_generate"] = True
    ours, expected = (
        with_attention(name, prune_ratio=ratio).generate(**inputs, **options)
        for name in ("block_sparse", "sdpa")
    )
    assert torch.equal(ours.sequences, expected.sequences)
    torch.testing.assert_close(ours.scores, expected.scores, rtol=1e-5, atol=1e-5)


def test_block_sparse_leaves_a_static_cache_to_transformers():
    inputs, options = make_inputs([[4]]), {"max_new_tokens": 5, "do_sample": False}
    expected = with_attention("sdpa").generate(**inputs, **options)
    ours = with_attention("block_sparse").generate(**inputs, **options, cache_implementation="static")
    assert torch.equal(ours, expected)


def test_block_sparse_lays_out_no_square_mask(monkeypatch):
    """Neither in training nor in the prompt, and no step of generation makes a block mask."""
    made = []
    for name in ("sdpa_mask", "flex_attention_mask"):
        monkeypatch.setattr(f"transformers.masking_utils.{name}", lambda **options: made.append(options))
    model = with_attention("block_sparse")
    seen = []
    for layer in model.model.language_model.layers:
        layer.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["attention_mask"]), with_kwargs=True
        )
    with torch.no_grad():
        model(**together(alone(), "packed"))
        assert all(isinstance(mask, BlockMask) for mask in seen)
        assert len(seen) == 3
        seen.clear()
        model.generate(**make_inputs([[4], [7]], pad="left"), max_new_tokens=3, do_sample=False)
    assert [isinstance(mask, BlockMask) for mask in seen] == [True] * 3 + [False] * 6
    assert all(mask.shape[2] == 1 for mask in seen[3:])
    assert not made


def test_on_a_cpu_block_sparse_has_no_backward_and_says_so():
    model, inputs = with_attention("block_sparse"), make_inputs([[4]])
    with pytest.raises(ValueError, match="no backward on a CPU"):
        model(**inputs)


def test_flash_attention_is_refused_where_it_would_forget_the_mask():
    model = build()
    model.config.text_config._attn_implementation = "flash_attention_2"
    with pytest.raises(
        ValueError, match=r"need a mask that flash_attention_2 cannot take.*'block_sparse' or 'sdpa'"
    ):
        model(**make_inputs([[4]]))
    with pytest.raises(ValueError, match="need a mask"):
        model(**make_inputs([[IMAGE]]))


@pytest.mark.parametrize(
    ("asked", "device", "chosen"),
    [
        (None, "cpu", "sdpa"),
        ("auto", "cuda:1", "block_sparse"),
        (None, "cuda", "block_sparse"),
        ("eager", "cuda", "eager"),
    ],
)
def test_the_choice_follows_the_device_unless_asked(asked, device, chosen):
    assert choose_llm_attention(asked, device) == chosen


@pytest.mark.parametrize(
    ("cuda", "asked", "chosen"),
    [(True, None, "block_sparse"), (False, None, "sdpa"), (False, "eager", "eager")],
)
def test_a_loaded_model_has_the_attention_chosen(cuda, asked, chosen, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    spec = ModelSpec(name="tiny", dtype="float32", attn_implementation=asked)
    config = load_model(spec, STTSConfig())[0].config
    assert config.text_config._attn_implementation == chosen
    assert config.vision_config._attn_implementation == "sdpa"


@pytest.mark.gpu
@pytest.mark.parametrize("how", ["left", "right", "packed"])
def test_block_sparse_agrees_with_sdpa_on_a_gpu_gradients_too(how):
    batch = {key: x.cuda() for key, x in together(alone([[40], [9], [IMAGE], [], [IMAGE, 30]]), how).items()}
    labels = batch["input_ids"].masked_fill(batch["mm_token_type_ids"] == 1, -100)
    after_padding = (
        F.pad(batch["attention_mask"], (1, 0))[:, :-1] == 0
    )  # which each attention sees as it likes
    labels[after_padding | (batch["attention_mask"] == 0)] = -100
    results = []
    for name in ("sdpa", "block_sparse"):
        torch.manual_seed(0)
        config = tiny_config()
        config.text_config.head_dim = 32  # its kernels start at 16
        config.stts = STTSConfig(prune_ratio=0.6).to_dict()
        model = STTSMolmo2ForConditionalGeneration(config).eval().cuda()
        model.set_attn_implementation({"text_config": name})
        model(**batch, labels=labels).loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        results.append((real_logits(model, batch, how), gradients))
    (expected, wanted), (ours, found) = results
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-6, name
