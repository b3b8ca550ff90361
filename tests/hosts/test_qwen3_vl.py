"""What is Qwen3-VL's alone: deepstack, positions of three planes, images beside videos, and no waiting."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from stts.hosts.qwen3_vl import merge_order, mrope_positions
from stts.pruning.memory import Clips
from tests.helpers.hosts import rows
from tests.helpers.hosts_flat import merge_units, mrope

ROW = rows()[0]


def test_memory_holds_merge_units():
    order = merge_order((4, 6), 2).view(4, 6)
    assert [int(order[r, c]) for r, c in merge_units(4, 6)] == list(range(24))


@pytest.mark.parametrize("pad", ["left", "right"])
def test_positions_are_those_of_transformers(pad: str):
    model = ROW.plain()
    for videos in (ROW.videos, [[(2, 4, 4)], [(1, 8, 4), (3, 4, 4)], [(1, 4, 12)]]):
        inputs = ROW.inputs(videos, pad=pad)
        sizes = [video for row in videos for video in row]
        clips = Clips(tuple(t for t, *_ in sizes), tuple((h, w) for _, h, w in sizes), 2)
        types, mask = inputs["mm_token_type_ids"], inputs["attention_mask"]
        grids = {"video_grid_thw": inputs["video_grid_thw"], "attention_mask": mask}
        expected = model.model.get_rope_index(inputs["input_ids"], types, **grids)
        for ours, theirs in zip(mrope_positions(types == 2, mask, clips), expected, strict=True):
            assert torch.equal(ours, theirs)


def test_compact_positions_are_refused():
    model = ROW.pruned()
    with pytest.raises(
        ValueError, match="position_ids is 'compact', which means nothing to positions of three"
    ):
        model.stts = model.stts.replace(position_ids="compact")


@pytest.mark.parametrize("insert_after", [2, 3, 4])
@torch.no_grad()
def test_deepstack_features_from_before_and_after_the_prune(insert_after: int):
    """Layers 3 and 5 give them. What a survivor's features are does not depend on where the scorer stands, if that
    keeps everything: held against a model that prunes nothing."""
    model = ROW.pruned(prune_ratio=0.5, insert_after=insert_after, bias_floor=1.0)
    inputs, seen = ROW.batch(), {}
    handle = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    out = model(**inputs)
    handle.remove()
    kept = sum(int(keep.sum()) for keep in out.keep_windows)
    assert [int(x.any(-1).sum()) for x in seen["deepstack_visual_embeds"]] == [kept, kept]


@torch.no_grad()
def test_images_beside_videos_stay_whole():
    inputs = ROW.batch(images=True)
    plain, model = ROW.plain(), ROW.pruned(prune_ratio=0.0)
    assert torch.equal(model(**inputs).logits, plain(**inputs).logits)
    model.stts = model.stts.replace(prune_ratio=0.5)
    out = model(**inputs)
    image = inputs["mm_token_type_ids"] == 1
    assert out.keep_mask[image].all()
    videos_alone = model(**ROW.batch())
    for ours, theirs in zip(out.keep_windows, videos_alone.keep_windows, strict=True):
        assert torch.equal(ours, theirs)

    # the image reaches the LLM as it does without pruning: what stands before it does not matter to its features
    other = dict(inputs, pixel_values=inputs["pixel_values"] + 1)
    assert (model(**other).logits - out.logits).abs().max() > 1e-3
    gen = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    gen["suppress_tokens"] = list(range(150, 200))
    for options in (gen, gen | {"num_beams": 3}):
        batch = model.generate(**inputs, **options)
        alone = ROW.inputs(ROW.videos[1:], numbers=[1], images=True)
        assert torch.equal(model.generate(**alone, **options)[0, -4:], batch[1, -4:])
    assert torch.equal(
        mrope(plain, inputs),
        model.host.positions(inputs["input_ids"], inputs["attention_mask"], inputs, model.host.clips(inputs))[
            0
        ],
    )


@torch.no_grad()
def test_a_row_without_a_video_beside_one_with():
    model, inputs = ROW.pruned(), ROW.alone(0)
    length = inputs["input_ids"].shape[1]
    text = nn.functional.pad(torch.tensor([[12, 40, 41, 42]]), (length - 4, 0))
    both = dict(inputs, input_ids=torch.cat([text, inputs["input_ids"]]))
    both["attention_mask"] = torch.cat([(text > 0).long(), inputs["attention_mask"]])
    both["mm_token_type_ids"] = nn.functional.pad(inputs["mm_token_type_ids"], (0, 0, 1, 0))
    out = model(**both)
    assert out.keep_mask.sum(1).tolist() == [4, int(model(**inputs).keep_mask.sum())]
    alone = ROW.plain()(input_ids=text[:, -4:], attention_mask=torch.ones(1, 4, dtype=torch.long)).logits
    torch.testing.assert_close(out.logits[0, -4:], alone[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(out.logits[1], model(**inputs).logits[0], rtol=0, atol=1e-5)
    gen = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, "num_beams": 2}
    gen["suppress_tokens"] = list(range(150, 200))
    assert torch.equal(model.generate(**both, **gen)[1, -4:], model.generate(**inputs, **gen)[0, -4:])


@torch.no_grad()
def test_half_precision_keeps_the_budget_and_all_but_the_same_windows():
    model, inputs = ROW.pruned(), ROW.batch()
    full = torch.cat([keep.flatten() for keep in model(**inputs).keep_windows])
    half = torch.cat([keep.flatten() for keep in model.bfloat16()(**inputs).keep_windows])
    assert half.sum() == full.sum()
    assert (half == full).float().mean() > 0.9


@torch.no_grad()
def test_a_conversation_goes_on_by_hand_from_the_pruned_prompt():
    """rope_deltas say where the next token stands: those of before, counted from the survivors."""
    model, inputs = ROW.pruned(), ROW.alone(0)
    out = model(**inputs, use_cache=True)
    whole = mrope(ROW.plain(), inputs)
    assert int(model.model.rope_deltas) + int(out.keep_mask.sum()) == int(whole.max()) + 1
    with pytest.raises(ValueError, match="past_key_values holds tokens already"):
        model(**inputs, past_key_values=copy.deepcopy(out.past_key_values))
    token = torch.tensor([[33]])
    step = model(input_ids=token, past_key_values=out.past_key_values).logits
    longer = dict(inputs, input_ids=torch.cat([inputs["input_ids"], token], 1))
    for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0)):
        longer[name] = nn.functional.pad(inputs[name], (0, 1), value=value)
    torch.testing.assert_close(step[0, -1], model(**longer).logits[0, -1], rtol=0, atol=1e-5)


@torch.no_grad()
def test_compiled_blocks_say_the_same():
    inputs, plain, compiled = ROW.alone(0), ROW.pruned(), ROW.pruned()
    for number in (4, 5):  # biased, on survivors
        block = compiled.host.blocks[number]
        block.forward = torch.compile(block.forward, dynamic=True, backend="eager")
    torch.testing.assert_close(compiled(**inputs).logits, plain(**inputs).logits)
