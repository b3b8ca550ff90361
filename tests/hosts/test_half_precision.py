"""Half precision, degenerate inputs, and the order of a batch."""

from __future__ import annotations

import math

import pytest
import torch

from stts import STTSMolmo2ForConditionalGeneration
from tests.helpers.molmo2 import build, labels_of, make_inputs


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_and_losses_stay_float32_under_autocast(dtype):
    model, inputs = build().train(), make_inputs([[4], [7]])
    with torch.autocast("cpu", dtype):
        out = model(**inputs, labels=labels_of(inputs))
    for name in ("scores", "targets", "aux_loss", "lm_loss", "loss"):
        assert getattr(out, name).dtype == torch.float32, name
        assert getattr(out, name).isfinite().all(), name
    out.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.model.vision_tower.scorer.parameters())


@torch.no_grad()
def test_a_bfloat16_model_stays_close_and_keeps_the_same_number():
    inputs = make_inputs([[4], [7]])
    exact = build()(**inputs)
    half = build().to(torch.bfloat16)(**inputs)
    assert half.scores.dtype == torch.float32
    assert (half.scores - exact.scores).abs().max() < 0.05
    assert half.keep_windows.sum() == exact.keep_windows.sum()


@torch.no_grad()
def test_pixels_that_are_no_numbers_still_keep_the_exact_number():
    model, inputs = build(), make_inputs([[4]])
    inputs["pixel_values_videos"].fill_(math.nan)
    out = model(**inputs)
    assert out.keep_windows.sum() == 8
    assert out.logits.shape[1] == inputs["input_ids"].shape[1] - 8


@torch.no_grad()
def test_constant_pixels_keep_the_exact_number():
    model, inputs = build(), make_inputs([[5]])
    inputs["pixel_values_videos"].fill_(0.5)
    out = model(**inputs)
    assert out.keep_windows.sum() == 10
    assert out.logits.isfinite().all()


@torch.no_grad()
def test_at_most_everything_but_the_first_frame_goes():
    model, inputs = build(prune_ratio=0.99), make_inputs([[4], [2]])
    keep = model(**inputs).keep_windows
    assert keep.all(1).tolist() == [True, False, False, False, True, False]
    assert keep.sum() == 8


@torch.no_grad()
def test_a_single_frame_is_never_pruned():
    model, inputs = build(prune_ratio=0.9), make_inputs([[1], [1]])
    out = model(**inputs)
    assert out.keep_windows is None
    assert torch.equal(out.keep_mask, inputs["attention_mask"].bool())


@torch.no_grad()
def test_a_single_frame_beside_a_video_is_as_it_is_alone():
    model = build()
    alone, both = make_inputs([[1]], seed=3), make_inputs([[1], [6]], seed=3)
    for name in ("pixel_values_videos",):
        both[name][:1] = alone[name]
    length = alone["input_ids"].shape[1]
    both["input_ids"][0, :length] = alone["input_ids"][0]
    out = model(**both)
    torch.testing.assert_close(out.logits[0, :length], model(**alone).logits[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("policy", ["scorer", "temporal"])
def test_permuting_the_batch_permutes_the_results(policy):
    model, rows = build(policy=policy), [[4], [7], [2]]
    inputs, order = make_inputs(rows), [2, 0, 1]
    out = model(**inputs)
    videos = inputs["pixel_values_videos"].split([4, 7, 2])
    permuted = {
        k: inputs[k][order] for k in ("input_ids", "attention_mask", "mm_token_type_ids", "video_grids")
    }
    permuted["pixel_values_videos"] = torch.cat([videos[i] for i in order])
    permuted["video_token_pooling"] = inputs[
        "video_token_pooling"
    ]  # counts patches from the start of the batch
    again = model(**permuted)
    for place, row in enumerate(order):
        n = int(out.keep_mask[row].sum())
        torch.testing.assert_close(again.logits[place, :n], out.logits[row, :n], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grid", [7, 8])
def test_grids_that_windows_do_not_divide(grid):
    from tests.helpers.molmo2 import tiny_config

    torch.manual_seed(0)
    model = STTSMolmo2ForConditionalGeneration(tiny_config(grid)).eval()
    inputs = make_inputs([[4], [3]], grid=grid)
    out = model(**inputs, labels=labels_of(inputs))
    windows = 9
    assert out.keep_windows.sum() == 7 * windows - 18 - 13
    assert out.logits.shape[1] == inputs["input_ids"].shape[1] - 18
    out.loss.backward()
    singles = make_inputs([[4]], grid=grid)
    singles["pixel_values_videos"] = inputs["pixel_values_videos"][:4]
    singles["input_ids"] = inputs["input_ids"][:1]
    with torch.no_grad():
        alone = model(**singles).logits[0]
    n = int(out.keep_mask[0].sum())
    torch.testing.assert_close(out.logits[0, :n], alone, rtol=1e-4, atol=1e-4)
