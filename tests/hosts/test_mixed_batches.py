"""Any mixture of videos, images and text in one batch gives, example by example, what each gives alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from stts.pruning.layout import BatchLayout
from tests.helpers.mixed_batches import EXAMPLES, alone, by_example, together
from tests.helpers.molmo2 import (
    IMAGE,
    PATCH_ID,
    build,
    greedy_by_hand,
    make_inputs,
    plain_twin,
    slow_row,
    slow_video,
)


@pytest.mark.parametrize("settings", [{}, {"position_ids": "compact"}, {"prune_ratio": 0.0}])
@pytest.mark.parametrize("how", ["left", "right", "packed"])
def test_a_mixed_batch_gives_what_its_examples_give_alone(how, settings):
    model, singles = build(**{"prune_ratio": 0.6} | settings), alone()
    outputs = [model(**single) for single in singles]
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(out.logits[0].shape, generator=generator) for out in outputs]

    def gradient(logits: list[Tensor]) -> dict[str, Tensor]:
        model.zero_grad()
        sum((x * c).sum() for x, c in zip(logits, cotangents, strict=True)).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    expected = [out.logits[0] for out in outputs]
    wanted = gradient(expected)
    out = model(**together(singles, how))
    ours = by_example(out.logits, [len(x) for x in expected], how)
    for x, y in zip(ours, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)
    if settings.get("prune_ratio") != 0:
        kept = torch.cat([x.keep_windows for x in outputs if x.keep_windows is not None])
        pruned = [t > 1 for items in EXAMPLES for t in items if t != IMAGE for _ in range(t)]
        assert torch.equal(out.keep_windows[torch.tensor(pruned)], kept)
    found = gradient(ours)
    assert found.keys() >= wanted.keys()
    for name, grad in wanted.items():
        assert (found[name] - grad).norm() <= 1e-4 * grad.norm() + 1e-6, name


@torch.no_grad()
@pytest.mark.parametrize("how", ["left", "packed"])
def test_384_frames_beside_one_frame_an_image_and_text(how):
    model, singles = build(), alone([[384], [1], [IMAGE], [], [2]])
    expected = [model(**single).logits[0] for single in singles]
    logits = model(**together(singles, how)).logits
    for x, y in zip(by_example(logits, [len(x) for x in expected], how), expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_images_beside_a_video_equal_the_slow_loop():
    model = build(prune_ratio=0.6)
    inputs = make_inputs([[IMAGE, 4, IMAGE]])
    tokens, keep = slow_video(model, inputs["pixel_values_videos"], 0.6)
    images = {key: inputs[key] for key in ("pixel_values", "image_token_pooling", "image_grids")}
    first, second = plain_twin(model).get_image_features(**images).pooler_output
    visual = torch.cat([first, tokens, second])
    keep = F.pad(keep.flatten(), (len(first), len(second)), value=True)
    logits, kept = slow_row(model, inputs["input_ids"][0], inputs["mm_token_type_ids"][0], visual, keep)
    for layout in (None, BatchLayout((4,), (inputs["input_ids"].shape[1],), (0,))):
        out = model(**inputs, layout=layout)
        assert out.keep_mask[0].nonzero()[:, 0].tolist() == kept.tolist()
        torch.testing.assert_close(out.logits[0], logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_images_alone_are_transformers_bit_for_bit_whatever_the_ratio():
    model, inputs = build(prune_ratio=0.8), make_inputs([[IMAGE], [], [IMAGE, IMAGE]], pad="left")
    twin = plain_twin(model)
    assert torch.equal(model(**inputs).logits, twin(**inputs).logits)
    options = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(model.generate(**inputs, **options), twin.generate(**inputs, **options))


@torch.no_grad()
def test_image_bytes_are_normalised_on_the_device():
    model, inputs = build(), make_inputs([[IMAGE, 3]])
    pixels = torch.randint(0, 256, inputs["pixel_values"].shape, dtype=torch.uint8)
    as_bytes = model(**inputs | {"pixel_values": pixels}).logits
    as_floats = model(**inputs | {"pixel_values": pixels / 127.5 - 1}).logits
    torch.testing.assert_close(as_bytes, as_floats, rtol=1e-4, atol=1e-4)


def test_a_mixed_batch_trains():
    model, batch = build().train(), together(alone(), "packed")
    labels = batch["input_ids"].masked_fill(batch["mm_token_type_ids"] == 1, -100)
    out = model(**batch, labels=labels)
    torch.testing.assert_close(out.loss, out.lm_loss + 0.5 * out.aux_loss)
    out.loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in model.model.vision_tower.scorer.parameters())


@pytest.mark.parametrize("ratio", [0.0, 0.6])
@pytest.mark.parametrize("how", ["left", "right"])
@pytest.mark.parametrize("beams", [1, 3])
def test_a_mixed_batch_generates_what_its_examples_generate_alone(how, ratio, beams):
    model, singles = build(prune_ratio=ratio), alone([[4], [IMAGE, 3], [], [IMAGE]])
    options = {"max_new_tokens": 5, "do_sample": False, "num_beams": beams}
    batch = together(singles, how)
    out = model.generate(**batch, **options)
    assert torch.equal(out[:, :-5], batch["input_ids"])
    expected = torch.cat([model.generate(**single, **options)[:, -5:] for single in singles])
    assert torch.equal(out[:, -5:], expected)


@pytest.mark.parametrize("ratio", [0.0, 0.6])
def test_generation_with_images_equals_running_everything_again(ratio):
    model, inputs = build(prune_ratio=ratio), make_inputs([[IMAGE, 5]])
    out = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    assert out[0, -6:].tolist() == greedy_by_hand(model, inputs, 6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda x: x.update(image_grids=x["image_grids"][:1]),
            "24 visual placeholders outside of video frames",
        ),
        (lambda x: x["input_ids"].masked_fill_(x["input_ids"] == 51, 1), "input_ids has placeholders for 0"),
        (
            lambda x: x["input_ids"][0, x["input_ids"][0].tolist().index(PATCH_ID)].fill_(1),
            "but the 2 images",
        ),
    ],
)
def test_images_that_do_not_fit_their_placeholders_are_named(change, words):
    inputs = make_inputs([[IMAGE, 4], [IMAGE]])
    change(inputs)
    with pytest.raises(ValueError, match=words):
        build()(**inputs)


def test_a_sharded_model_refuses_images():
    model = build()
    model.lockstep = True
    with pytest.raises(ValueError, match="a sharded model takes videos and text, no images"):
        model(**make_inputs([[IMAGE]]))
