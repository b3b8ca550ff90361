from __future__ import annotations

import json
from contextlib import nullcontext

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import Molmo2ForConditionalGeneration

from stts import STTSConfig, STTSMolmo2ForConditionalGeneration
from stts.pruning.layout import BatchLayout
from tests.helpers.molmo2 import (
    PATCH_ID,
    RefuseHostReads,
    build,
    greedy_by_hand,
    labels_of,
    make_inputs,
    plain_twin,
    slow_row,
    slow_video,
)

ROWS = [[4], [7], []]  # a video a row, and a row of text


# --- a slow model, one frame and one row at a time, from the weights alone ----------------------------------


# --- tests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pad", ["right", "left"])
@pytest.mark.parametrize("ratio", [0.3, 0.8])
@torch.no_grad()
def test_a_batch_equals_the_slow_loop(ratio, pad):
    model, inputs = build(prune_ratio=ratio), make_inputs(ROWS, pad=pad)
    out = model(**inputs)
    start = 0
    for row, videos in enumerate(ROWS):
        real = inputs["attention_mask"][row].bool()
        ids, types = inputs["input_ids"][row][real], inputs["mm_token_type_ids"][row][real]
        tokens, keep = torch.zeros(0, 48), torch.zeros(0, 4, dtype=torch.bool)
        if videos:
            tokens, keep = slow_video(model, inputs["pixel_values_videos"][start : start + videos[0]], ratio)
            assert torch.equal(out.keep_windows[start : start + videos[0]], keep)
            start += videos[0]
        logits, kept = slow_row(model, ids, types, tokens, keep)
        n = len(kept)
        assert torch.equal(out.keep_mask[row].nonzero()[:, 0], real.nonzero()[:, 0][kept])
        ours = out.logits[row, :n] if pad == "right" else out.logits[row, -n:]
        torch.testing.assert_close(ours, logits, rtol=1e-4, atol=1e-4)
    assert out.logits.shape[1] == out.keep_mask.sum(1).max()


@pytest.mark.parametrize("pad", ["right", "left"])
@torch.no_grad()
def test_without_pruning_it_is_transformers_bit_for_bit(pad):
    model, inputs = build(prune_ratio=0), make_inputs(ROWS, pad=pad)
    twin, labels = plain_twin(model), labels_of(inputs)
    ours, theirs = model(**inputs, labels=labels), twin(**inputs, labels=labels)
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.loss, theirs.loss)
    left = make_inputs(ROWS, pad="left")
    options = {"max_new_tokens": 8, "do_sample": False}
    assert torch.equal(model.generate(**left, **options), twin.generate(**left, **options))


@pytest.mark.parametrize("grid", [6, 7])  # 7: windows at the edge are padded
def test_sizes_that_are_known_are_not_waited_for_and_change_no_bit(grid):
    """Without pruning, too: a baseline that waits where the pruned run does not would flatter it."""
    model, inputs = build(grid=grid, prune_ratio=0).train(), make_inputs(ROWS, grid=grid)
    twin, labels = plain_twin(model).train(), labels_of(inputs)
    layout = BatchLayout((4, 7), tuple(inputs["attention_mask"].sum(1).tolist()), (0, 1))
    with RefuseHostReads() if grid == 6 else nullcontext():  # a CPU may look for a padded window
        ours = model(**inputs, labels=labels, layout=layout, use_cache=False)
    theirs = twin(**inputs, labels=labels, use_cache=False)
    assert torch.equal(ours.logits, theirs.logits)
    ours.lm_loss.backward()
    theirs.loss.backward()
    grads = dict(model.named_parameters())
    for name, parameter in twin.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(grads[name].grad, parameter.grad, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_uint8_pixels_are_normalised_on_the_device():
    model, inputs = build(), make_inputs([[4]])
    pixels = torch.randint(0, 256, inputs["pixel_values_videos"].shape, dtype=torch.uint8)
    for ratio in (0.0, 0.5):
        model.stts = model.stts.replace(prune_ratio=ratio)
        as_bytes = model(**inputs | {"pixel_values_videos": pixels}).logits
        as_floats = model(**inputs | {"pixel_values_videos": pixels / 127.5 - 1}).logits
        torch.testing.assert_close(as_bytes, as_floats, rtol=1e-4, atol=1e-4)


def test_language_model_loss_alone_reaches_every_scorer_parameter():
    model, inputs = build(), make_inputs([[4], [7]])
    model(**inputs, labels=labels_of(inputs)).lm_loss.backward()
    for name, parameter in model.model.vision_tower.scorer.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_training_loss_adds_the_auxiliary_loss():
    model, inputs = build(aux_loss_weight=0.7), make_inputs([[4], [7]])
    model.train()
    out = model(**inputs, labels=labels_of(inputs))
    torch.testing.assert_close(out.loss, out.lm_loss + 0.7 * out.aux_loss)
    assert out.aux_loss > 0
    model.eval()
    out = model(**inputs, labels=labels_of(inputs))
    assert torch.equal(out.loss, out.lm_loss)


def test_gradient_checkpointing_changes_nothing():
    model, inputs = build(), make_inputs([[4]])
    model.train()
    labels = labels_of(inputs)

    def gradient() -> Tensor:
        model.zero_grad()
        model(**inputs, labels=labels).loss.backward()
        return model.model.vision_tower.scorer.fc1.weight.grad.clone()

    expected = gradient()
    model.gradient_checkpointing_enable()
    torch.testing.assert_close(gradient(), expected)
    with pytest.raises(ValueError, match="use_reentrant=False"):
        model.gradient_checkpointing_enable({"use_reentrant": True})


def test_a_batch_without_video_still_holds_the_scorer():
    model, inputs = build(), make_inputs([[], []])
    model.train()
    model(**inputs, labels=labels_of(inputs)).loss.backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() == 0 for p in model.model.vision_tower.scorer.parameters()
    )


@torch.no_grad()
def test_a_packed_row_equals_its_examples_alone():
    model = build()
    singles = [make_inputs([[4]], seed=1), make_inputs([[]], seed=2), make_inputs([[7]], seed=3)]
    packed = {
        k: torch.cat([s[k] for s in singles], 1) for k in ("input_ids", "attention_mask", "mm_token_type_ids")
    }
    videos = [singles[0], singles[2]]
    packed["pixel_values_videos"] = torch.cat([s["pixel_values_videos"] for s in videos])
    packed["video_grids"] = torch.cat([s["video_grids"] for s in videos])
    packed["video_token_pooling"] = torch.cat(
        [videos[0]["video_token_pooling"], videos[1]["video_token_pooling"] + 4 * 36]
    )
    lengths = [s["input_ids"].shape[1] for s in singles]
    packed["position_ids"] = torch.cat([torch.arange(n) for n in lengths])[None]
    packed["sequence_ids"] = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])[None]
    for settings in (
        {"prune_ratio": 0.5},
        {"prune_ratio": 0.0},
        {"prune_ratio": 0.5, "position_ids": "compact"},
    ):
        model.stts = model.stts.replace(**settings)
        together = model(**packed).logits[0]
        alone = torch.cat([model(**s).logits[0] for s in singles])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_layout_given_or_read_off_the_tensors_is_the_same():
    model, inputs = build(), make_inputs([[4], [7]])
    layout = BatchLayout((4, 7), tuple(inputs["attention_mask"].sum(1).tolist()), (0, 1))
    assert torch.equal(model(**inputs, layout=layout).logits, model(**inputs).logits)


def test_forward_and_losses_never_wait_for_the_device():
    model, inputs = build().train(), make_inputs([[4], [7]])
    layout = BatchLayout((4, 7), tuple(inputs["attention_mask"].sum(1).tolist()), (0, 1))
    labels = labels_of(inputs)
    with RefuseHostReads():
        out = model(**inputs, layout=layout, labels=labels)
    assert out.keep_mask.sum() == inputs["attention_mask"].sum() - 8 - 14
    with pytest.raises(AssertionError, match="reads the device"), RefuseHostReads():
        _ = out.scores[out.keep_windows]


@torch.no_grad()
def test_prune_ratio_takes_effect_when_assigned():
    model, inputs = build(), make_inputs([[4]])
    lengths = []
    for ratio in (0.0, 0.5, 0.75):
        model.stts = model.stts.replace(prune_ratio=ratio)
        lengths.append(model(**inputs).logits.shape[1])
    assert [lengths[0] - n for n in lengths] == [0, 8, 12]
    assert model.config.stts["prune_ratio"] == 0.75


@pytest.mark.parametrize("position_ids", ["original", "compact"])
def test_generation_with_cache_equals_running_everything_again(position_ids):
    model, inputs = build(position_ids=position_ids), make_inputs([[5]])
    expected = greedy_by_hand(model, inputs, 6)
    for use_cache in (True, False):
        out = model.generate(**inputs, max_new_tokens=6, do_sample=False, use_cache=use_cache)
        assert torch.equal(out[:, :-6], inputs["input_ids"])
        assert out[0, -6:].tolist() == expected


@pytest.mark.parametrize("ratio", [0.0, 0.5])
@pytest.mark.parametrize("pad", ["left", "right"])
def test_a_batch_generates_what_its_rows_generate_alone(pad, ratio):
    model = build(prune_ratio=ratio)
    batch, singles = make_inputs(ROWS, pad=pad), []
    out = model.generate(**batch, max_new_tokens=5, do_sample=False)
    assert torch.equal(out[:, : batch["input_ids"].shape[1]], batch["input_ids"])
    start = 0
    for row, videos in enumerate(ROWS):
        real = batch["attention_mask"][row].bool()
        single = {
            k: batch[k][row : row + 1, real] for k in ("input_ids", "attention_mask", "mm_token_type_ids")
        }
        if videos:
            frames = slice(start, start + videos[0])
            single["pixel_values_videos"] = batch["pixel_values_videos"][frames]
            single["video_grids"] = batch["video_grids"][row : row + 1]
            single["video_token_pooling"] = batch["video_token_pooling"][: 4 * videos[0]]
            start += videos[0]
        singles.append(model.generate(**single, max_new_tokens=5, do_sample=False)[0, -5:])
    assert torch.equal(out[:, -5:], torch.stack(singles))


def test_beam_search_sampling_and_dict_output_work():
    model, inputs = build(), make_inputs([[4], [7]])
    beams = model.generate(**inputs, max_new_tokens=5, num_beams=3, num_return_sequences=2)
    length = inputs["input_ids"].shape[1]
    assert torch.equal(beams[:, :length], inputs["input_ids"].repeat_interleave(2, 0))
    assert beams.shape == (4, length + 5)
    torch.manual_seed(0)
    sampled = model.generate(
        **inputs, max_new_tokens=5, do_sample=True, return_dict_in_generate=True, output_scores=True
    )
    assert sampled.sequences.shape == (2, length + 5)
    assert len(sampled.scores) == 5
    one_beam = model.generate(**inputs, max_length=length + 3, do_sample=False)
    assert one_beam.shape == (2, length + 3)


def test_saved_model_loads_back_identical_and_in_plain_transformers(tmp_path):
    model = build(prune_ratio=0.25, policy="temporal")
    model.save_pretrained(tmp_path)
    again = STTSMolmo2ForConditionalGeneration.from_pretrained(tmp_path)
    assert again.stts == model.stts
    assert json.loads((tmp_path / "config.json").read_text())["stts"]["prune_ratio"] == 0.25
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in again.state_dict().items())
    plain = Molmo2ForConditionalGeneration.from_pretrained(tmp_path)
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.state_dict().items())
    other = STTSMolmo2ForConditionalGeneration.from_pretrained(tmp_path, stts=STTSConfig(prune_ratio=0.7))
    assert other.stts.prune_ratio == 0.7
    assert torch.equal(other.model.vision_tower.scorer.fc1.weight, model.model.vision_tower.scorer.fc1.weight)


def test_plain_weights_get_a_fresh_scorer(tmp_path):
    plain = plain_twin(build())
    plain.config.stts = None
    plain.save_pretrained(tmp_path)
    with safe_open(
        tmp_path / "model.safetensors", "pt"
    ) as file:  # transformers writes the released key layout
        assert "model.transformer.blocks.0.self_attn.att_proj.weight" in file.keys()  # noqa: SIM118
    model = STTSMolmo2ForConditionalGeneration.from_pretrained(tmp_path, stts=STTSConfig(prune_ratio=0.3))
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.state_dict().items())
    weight = model.model.vision_tower.scorer.fc2.weight
    assert 0.8 < weight.std() * weight.shape[1] ** 0.5 < 1.2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x.update(video_grids=torch.tensor([[5, 2, 2], [7, 2, 2]])), "visual placeholders"),
        (lambda x: x.update(video_grids=x["video_grids"][:1]), "row 1 of input_ids has 28"),
        (lambda x: x["input_ids"].masked_fill_(x["input_ids"] == PATCH_ID, 1), "2 videos given"),
    ],
)
def test_placeholders_that_do_not_fit_the_videos_are_named(change, words):
    inputs = make_inputs([[4], [7]])
    change(inputs)
    with pytest.raises(ValueError, match=words):
        build()(**inputs)
