"""What an engine is given of a pruned video, against what the model itself gives its LLM."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stts.pruning.flex import block_mask
from stts.pruning.sequence import compact_positions, keep_tokens, plan_survivors
from stts.serving.layout import (
    BASE,
    COLUMNS,
    INSIDE,
    MOST_TOKENS,
    VISUAL,
    Span,
    Stretch,
    both_ways,
    embed,
    first_positions,
    lay_out,
    place_survivors,
    read_columns,
    videos_at_once,
    with_columns,
)
from tests.helpers.molmo2 import PATCH_ID, build, make_inputs

FRAMES = 5


def inside(inputs: dict[str, Tensor]) -> slice:
    """The video's stretch of the row: its first timestamp to its last marker. A frame is two words, a marker, four
    windows and a marker."""
    first = int((inputs["mm_token_type_ids"][0] == 1).nonzero()[0]) - 2
    return slice(first, first + FRAMES * 8)


def given_to_llm(model, inputs: dict[str, Tensor]) -> dict[str, Any]:
    """What the model gives its own LLM."""
    seen: dict[str, Any] = {}

    def look(module, args, kwargs) -> None:
        seen.update(kwargs)

    handle = model.model.language_model.register_forward_pre_hook(look, with_kwargs=True)
    seen["out"] = model(**inputs)
    handle.remove()
    return seen


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    return make_inputs([[FRAMES]])


@pytest.mark.parametrize("position_ids", ["original", "compact"])
@pytest.mark.parametrize("ratio", [0.5, 0.8])
@torch.no_grad()
def test_an_engine_is_given_what_the_models_own_llm_is(inputs, ratio, position_ids):
    model = build(prune_ratio=ratio, position_ids=position_ids)
    whole = given_to_llm(model, inputs)
    videos = {name: inputs[name] for name in ("pixel_values_videos", "video_token_pooling", "video_grids")}
    visual = model.encode_videos(**videos)
    stretch = inside(inputs)
    ids, types = inputs["input_ids"][0], inputs["mm_token_type_ids"][0]
    dropped = visual.keep.numel() - len(visual.features)
    span = lay_out(ids[stretch], types[stretch] == 1, visual.keep, PATCH_ID, dropped)
    table = model.get_input_embeddings()
    rows = with_columns(embed(span, table, visual.features), span)

    length = len(ids) - dropped
    stretches = [Stretch(stretch.start, len(span.ids), FRAMES * 8)]
    compact = position_ids == "compact"
    positions, ahead = first_positions(length, stretches, compact)
    embeds, *where = read_columns(rows)
    positions = place_survivors(positions, *where, compact)
    assert torch.equal(positions[0], whole["position_ids"][0])
    assert int(positions[0, -1]) + 1 - length == ahead == (0 if compact else dropped)
    kept = whole["out"].keep_mask[0]
    assert torch.equal(positions[1] == VISUAL, types[kept] == 1)
    around = [table(ids[: stretch.start]), embeds, table(ids[stretch.stop :])]
    assert torch.equal(torch.cat(around), whole["inputs_embeds"][0])
    assert torch.equal(span.ids, ids[stretch][kept[stretch]])


@settings(max_examples=30, derandomize=True, deadline=None)
@given(frames=st.integers(1, 6), windows=st.integers(1, 5), words=st.integers(0, 3), seed=st.integers(0, 99))
def test_the_stretch_is_cut_as_a_sequence_is(frames, windows, words, seed):
    """Whatever lies between the windows."""
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(frames, windows, generator=generator) < 0.5
    keep[0] = True
    ids = torch.tensor(([1] * words + [7] * windows) * frames)
    visual = torch.rand(len(ids), generator=generator) < 0.5
    dropped = int((~keep).sum())
    span = lay_out(ids, visual, keep, 7, dropped)
    survivors = plan_survivors(keep_tokens((ids == 7)[None], keep, None), len(ids) - dropped)
    assert torch.equal(span.ids, survivors.take(ids[None], 0)[0])
    assert torch.equal(span.visual, survivors.take(visual[None].long(), 0)[0].bool())
    assert torch.equal(span.place, survivors.index[0])
    assert (span.ids[span.windows] == 7).all()
    assert len(span.windows) == int(keep.sum())
    features = torch.randn(len(span.windows), 3, generator=generator)
    embeds = embed(span, lambda x: x[:, None].float().expand(-1, 3), features)
    assert torch.equal(embeds[span.windows], 7 + features)
    rest = torch.ones(len(span.ids), dtype=torch.bool).index_fill(0, span.windows, False)
    assert (embeds[rest] == 1).all()
    positions, _ = first_positions(len(span.ids) + 5, [Stretch(2, len(span.ids), len(ids))], True)
    rank = torch.arange(len(span.ids))
    compact = place_survivors(positions, span.place, rank, span.visual, True)[0]
    assert torch.equal(compact, compact_positions(torch.ones(1, len(compact), dtype=torch.bool))[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_two_digits_carry_every_place_in_half_precision(dtype):
    place = torch.arange(0, MOST_TOKENS, 7)
    place[-1] = MOST_TOKENS - 1
    visual = place % 3 == 0
    span = Span(place, place, visual, place[:0])
    rows = with_columns(torch.full((len(place), 2), 0.5, dtype=dtype), span)
    assert rows.shape[1] == 2 + COLUMNS
    embeds, where, rank, flags = read_columns(rows)
    assert torch.equal(where, place)
    assert torch.equal(rank, torch.arange(len(place)))
    assert torch.equal(flags, visual)
    assert (embeds == 0.5).all()
    assert torch.tensor(BASE - 1, dtype=torch.bfloat16) == BASE - 1
    assert torch.tensor(BASE + 1, dtype=torch.bfloat16) == BASE  # so that one column would not do


def test_a_part_of_the_survivors_is_placed_where_it_belongs():
    """As where a prompt's first half is found in a cache: what comes later keeps its place."""
    place, visual = torch.tensor([0, 1, 4, 6, 7]), torch.tensor([False, True, True, True, False])
    first, ahead = first_positions(9, [Stretch(2, 5, 8)], False)
    assert first.tolist() == [
        [0, 1, 2, 3, 4, 5, 6, 10, 11],
        [0] * 9,
        [0, 0, *[INSIDE] * 5, 0, 0],
    ]
    assert ahead == 3
    rows = with_columns(torch.zeros(5, 4), Span(place, place, visual, place[:0]))
    whole = place_survivors(first, *read_columns(rows)[1:], False)
    assert whole[0].tolist() == [0, 1, 2, 3, 6, 8, 9, 10, 11]
    assert whole[1].tolist() == [0, 0, 0, VISUAL, VISUAL, VISUAL, 0, 0, 0]
    part = place_survivors(first, *read_columns(rows[3:])[1:], False)
    assert torch.equal(part[:, 5:], whole[:, 5:])
    assert torch.equal(part[:, :5], first[:, :5])
    assert torch.equal(place_survivors(part, *read_columns(rows[:3])[1:], False), whole)


def test_visual_tokens_see_each_other_and_others_what_came_before():
    mask = both_ways(torch.tensor([False, True, False, True, False]))
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 1, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
    ]


@settings(max_examples=10, derandomize=True, deadline=None)
@given(visual=st.lists(st.booleans(), min_size=1, max_size=40))
def test_the_mask_is_the_one_of_training(visual):
    visual = torch.tensor(visual)
    rule = block_mask(torch.zeros(1, len(visual), dtype=torch.int32), visual[None]).mask_mod
    zero, places = torch.zeros((), dtype=torch.int64), torch.arange(len(visual))
    assert torch.equal(both_ways(visual), rule(zero, zero, places[:, None], places[None]))


def test_videos_are_encoded_together_up_to_a_number_of_frames():
    def cut(frames: list[int], most: int) -> list[list[int]]:
        return [frames[group] for group in videos_at_once(frames, most)]

    assert cut([3, 4, 2, 9, 1, 1], 8) == [[3, 4], [2], [9], [1, 1]]
    assert cut([8], 8) == [[8]]
    assert cut([], 8) == []
