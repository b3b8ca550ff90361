"""A video encoded once and asked about many times, against every question with its own pixels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stts import STTSConfig, STTSMolmo2ForConditionalGeneration
from stts.pruning.layout import BatchLayout
from stts.pruning.visual_tokens import VisualTokens
from tests.helpers.molmo2 import make_inputs, tiny_config

VIDEO = ("pixel_values_videos", "video_token_pooling", "video_grids")


def build(**stts) -> STTSMolmo2ForConditionalGeneration:
    torch.manual_seed(0)
    config = tiny_config()
    config.stts = STTSConfig(**stts).to_dict()
    return STTSMolmo2ForConditionalGeneration(config).eval()


def questions(pad: str) -> tuple[dict[str, Tensor], list[list[int]]]:
    """Three rows of text of different lengths, about a video of 4 frames twice and one of 6."""
    rows = [[4], [4], [6]]
    inputs = make_inputs(rows, pad=pad)
    inputs["pixel_values_videos"][4:8] = inputs["pixel_values_videos"][:4]  # the second row's is the first's
    return inputs, rows


def encoded(model: STTSMolmo2ForConditionalGeneration, inputs: dict[str, Tensor]) -> VisualTokens:
    """Each of the two videos alone, then as a batch."""
    windows = 4  # of a frame
    videos = []
    for first, frames in ((0, 4), (8, 6)):
        pooling = inputs["video_token_pooling"][first * windows : (first + frames) * windows]
        patches = inputs["pixel_values_videos"].shape[1]
        pixels = inputs["pixel_values_videos"][first : first + frames]
        grids = torch.tensor([[frames, *inputs["video_grids"][0, 1:].tolist()]])
        with torch.no_grad():
            videos.append(model.encode_videos(pixels, pooling - first * patches, grids))
    return VisualTokens.of_rows([videos[0], videos[0], videos[1]])


@pytest.mark.parametrize("pad", ["right", "left"])
@pytest.mark.parametrize(("ratio", "policy"), [(0.0, "scorer"), (0.5, "scorer"), (0.5, "temporal")])
def test_logits_are_those_of_pixels(ratio: float, policy: str, pad: str) -> None:
    model = build(prune_ratio=ratio, policy=policy)
    inputs, _ = questions(pad)
    text = {key: value for key, value in inputs.items() if key not in VIDEO}
    visual = encoded(model, inputs)
    with torch.no_grad():
        expected = model(**inputs)
        found = model(**text, video_grids=inputs["video_grids"], visual=visual)
        lengths = tuple(inputs["attention_mask"].sum(1).tolist())
        layout = BatchLayout((4, 4, 6), lengths, (0, 1, 2))
        with_layout = model(**text, layout=layout, visual=visual)
    assert torch.equal(found.keep_mask, expected.keep_mask)
    assert visual.keep.float().mean() == pytest.approx(1 - ratio)
    if ratio:
        assert torch.equal(found.keep_windows, expected.keep_windows)
    for row, count in enumerate(expected.keep_mask.sum(1).tolist()):
        real = slice(-count, None) if pad == "left" else slice(count)
        torch.testing.assert_close(found.logits[row, real], expected.logits[row, real], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(with_layout.logits[row, real], found.logits[row, real])


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_replies_are_those_of_pixels(ratio: float) -> None:
    model = build(prune_ratio=ratio)
    inputs, _ = questions("right")
    text = {key: value for key, value in inputs.items() if key not in VIDEO}
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    expected = model.generate(**inputs, **options)
    kept = model.last_keep_windows
    found = model.generate(
        **text, video_grids=inputs["video_grids"], visual=encoded(model, inputs), **options
    )
    assert torch.equal(found, expected)
    assert (model.last_keep_windows is None) == (kept is None) == (ratio == 0)
    if ratio:
        assert torch.equal(model.last_keep_windows, kept)


def test_a_video_that_loses_nothing_beside_one_that_does() -> None:
    """A single frame is never pruned: alone it takes transformers' own way through the ViT."""
    model = build(prune_ratio=0.5)
    inputs = make_inputs([[1], [5]])
    text = {key: value for key, value in inputs.items() if key not in VIDEO}
    windows, patches = 4, inputs["pixel_values_videos"].shape[1]
    side = inputs["video_grids"][0, 1:].tolist()
    pixels, pooling = inputs["pixel_values_videos"], inputs["video_token_pooling"]
    with torch.no_grad():
        one = model.encode_videos(pixels[:1], pooling[:windows], torch.tensor([[1, *side]]))
        five = model.encode_videos(pixels[1:], pooling[windows:] - patches, torch.tensor([[5, *side]]))
        assert one.keep.all()
        assert not five.keep.all()
        visual = VisualTokens.of_rows([one, five])
        found = model(**text, video_grids=inputs["video_grids"], visual=visual).logits
        expected = model(**inputs)
    torch.testing.assert_close(found, expected.logits, rtol=1e-4, atol=1e-4)


def test_tokens_of_another_ratio_are_refused() -> None:
    model = build(prune_ratio=0.5)
    inputs, _ = questions("right")
    visual = encoded(model, inputs)
    text = {key: value for key, value in inputs.items() if key not in VIDEO}
    for ratio in (0.2, 0.0):
        model.stts = model.stts.replace(prune_ratio=ratio)
        with pytest.raises(ValueError, match=rf"visual holds {len(visual.features)} tokens, the batch keeps"):
            model(**text, video_grids=inputs["video_grids"], visual=visual)


def test_what_only_a_loss_needs_is_kept_with_gradients_alone() -> None:
    model = build(prune_ratio=0.5)
    inputs = make_inputs([[4]])
    video = {key: inputs[key] for key in VIDEO}
    with torch.no_grad():
        assert model.encode_videos(**video).scored is None
    visual = model.encode_videos(**video)
    text = {key: value for key, value in inputs.items() if key not in VIDEO}
    labels = inputs["input_ids"].masked_fill(inputs["mm_token_type_ids"] == 1, -100)
    options = {"labels": labels, "use_cache": False}
    out = model.train()(**text, video_grids=video["video_grids"], visual=visual, **options)
    expected = model(**inputs, **options)
    torch.testing.assert_close(out.loss, expected.loss)
    torch.testing.assert_close(out.aux_loss, expected.aux_loss)
