from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stts.data.feed.collator import Collator
from stts.data.processors.molmo2 import IGNORE
from stts.pruning.windows import window_index

PAD, PATCH = 0, 1
WINDOWS, PATCHES = 4, 9  # 3 x 3 patches in windows of 2 x 2: some of them are -1


def make_example(number, before, frames, after):
    """Every token but the placeholders and every patch is unlike any other, in this example and in all."""
    base = 1000 * (number + 1)
    ids = [base + i for i in range(before)] + [PATCH] * (frames * WINDOWS)
    ids += [base + 500 + i for i in range(after)]
    input_ids = torch.tensor(ids)
    example = {
        "id": f"example {number}",
        "input_ids": input_ids,
        "labels": torch.where(input_ids >= base + 500, input_ids, IGNORE),
        "mm_token_type_ids": (input_ids == PATCH).long(),
    }
    if frames:
        patch = torch.arange(frames * PATCHES)
        pixels = torch.stack([torch.full_like(patch, number), patch // 256, patch % 256], 1).byte()
        windows = window_index((3, 3), 2)
        first_patch = torch.arange(frames).view(-1, 1, 1) * PATCHES
        example |= {
            "pixel_values_videos": pixels.view(frames, PATCHES, 3),
            "video_token_pooling": torch.where(windows < 0, -1, windows + first_patch).flatten(0, 1),
            "video_grids": torch.tensor([[frames, 2, 2]]),
        }
    return example


sizes = st.tuples(st.integers(1, 9), st.integers(0, 6), st.integers(1, 9))
batches = st.lists(sizes, min_size=1, max_size=9).map(
    lambda all_sizes: [make_example(i, *size) for i, size in enumerate(all_sizes)]
)
ratios = st.sampled_from([0.0, 0.25, 0.3, 0.5, 0.8, 0.99])


def kept(example, ratio):
    """Tokens left of an example, by the formula of the method."""
    frames = example["video_grids"][0, 0].item() if "video_grids" in example else 1
    return len(example["input_ids"]) - min(int(WINDOWS * frames * ratio + 1e-6), WINDOWS * (frames - 1))


def windows_of(pooling, pixels):
    """The patches each window shows, one list a window, None where there is no patch."""
    flat = [] if pixels is None else pixels.flatten(0, 1).tolist()
    return [[None if i < 0 else flat[i] for i in window] for window in pooling.tolist()]


def check_videos(batch, examples):
    """Placeholder k of the batch, row by row, is window k of video_token_pooling, and shows the same."""
    videos = [example for example in examples if "video_grids" in example]
    if not videos:
        assert not {"pixel_values_videos", "video_token_pooling", "video_grids"} & set(batch)
        return
    expected = [
        window
        for example in videos
        for window in windows_of(example["video_token_pooling"], example["pixel_values_videos"])
    ]
    assert windows_of(batch["video_token_pooling"], batch["pixel_values_videos"]) == expected
    assert len(expected) == (batch["input_ids"] == PATCH).sum()
    assert batch["pixel_values_videos"].dtype == torch.uint8
    assert batch["video_grids"].tolist() == [example["video_grids"][0].tolist() for example in videos]
    assert batch["layout"].frames_per_video == tuple(
        len(example["pixel_values_videos"]) for example in videos
    )


@settings(deadline=None)
@given(examples=batches)
def test_a_row_per_example(examples):
    batch = Collator(PAD)(examples)
    assert batch["ids"] == [example["id"] for example in examples]
    assert "position_ids" not in batch
    assert "sequence_ids" not in batch
    fill = {"input_ids": PAD, "labels": IGNORE, "mm_token_type_ids": 0}
    width = max(len(example["input_ids"]) for example in examples)
    for row, example in enumerate(examples):
        length = len(example["input_ids"])
        for key, value in fill.items():
            assert batch[key][row].tolist() == example[key].tolist() + [value] * (width - length)
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (width - length)
    assert batch["layout"].lengths == tuple(len(example["input_ids"]) for example in examples)
    assert batch["layout"].video_rows == tuple(i for i, e in enumerate(examples) if "video_grids" in e)
    check_videos(batch, examples)


@settings(deadline=None)
@given(examples=batches, ratio=ratios, slack=st.integers(0, 60))
def test_packing_loses_nothing_and_keeps_the_budget(examples, ratio, slack):
    budget = max(kept(example, ratio) for example in examples) + slack
    collator = Collator(PAD, ratio, budget)
    batch = collator(examples)
    by_id = {example["id"]: example for example in examples}
    assert sorted(batch["ids"]) == sorted(by_id)  # each once
    laid_out = [by_id[name] for name in batch["ids"]]

    waiting, loads, video_rows = iter(laid_out), [], []
    for row, sequence in enumerate(batch["sequence_ids"].tolist()):
        count, at, load = max(sequence) + 1, 0, 0
        for number in range(count):
            example = next(waiting)
            length = len(example["input_ids"])
            part = slice(at, at + length)
            assert sequence[part] == [number] * length
            assert batch["position_ids"][row, part].tolist() == list(range(length))
            for key in ("input_ids", "labels", "mm_token_type_ids"):
                assert torch.equal(batch[key][row, part], example[key])
            at, load = at + length, load + kept(example, ratio)
            video_rows += [row] if "video_grids" in example else []
        assert batch["layout"].lengths[row] == at
        rest = slice(at, None)
        for key, value in (
            ("input_ids", PAD),
            ("labels", IGNORE),
            ("mm_token_type_ids", 0),
            ("sequence_ids", -1),
        ):
            assert (batch[key][row, rest] == value).all()
        assert batch["attention_mask"][row].tolist() == [1] * at + [0] * (len(sequence) - at)
        loads.append(load)
    assert next(waiting, None) is None
    assert batch["layout"].video_rows == tuple(video_rows)
    assert max(loads) <= budget
    assert all(a + b > budget for i, a in enumerate(loads) for b in loads[:i])  # no two rows fit into one
    check_videos(batch, laid_out)


def test_first_fit_decreasing_by_hand():
    lengths = [2, 4, 7, 6, 1]  # longest first: row a takes 7, row b 6 and 4, then a 2 and 1
    examples = [make_example(i, length - 1, 0, 1) for i, length in enumerate(lengths)]
    batch = Collator(PAD, max_tokens=10)(examples)
    assert batch["ids"] == [f"example {i}" for i in (0, 2, 4, 1, 3)]
    assert batch["layout"].lengths == (10, 10)
    assert batch["sequence_ids"].tolist() == [[0] * 2 + [1] * 7 + [2], [0] * 4 + [1] * 6]


def test_pruning_makes_room():
    examples = [make_example(i, 2, 4, 2) for i in range(4)]  # 20 tokens, 12 at ratio 0.5
    assert Collator(PAD, 0.0, 24)(examples)["layout"].lengths == (20,) * 4
    collator = Collator(PAD, 0.5, 24)
    assert collator(examples)["layout"].lengths == (40, 40)
    collator.prune_ratio = 0.0
    assert collator(examples)["layout"].lengths == (20,) * 4


def test_equal_examples_stay_in_order():
    examples = [make_example(i, 4, 0, 1) for i in range(7)]
    batches = [Collator(PAD, max_tokens=10)(examples) for _ in range(2)]
    assert batches[0]["ids"] == batches[1]["ids"] == [example["id"] for example in examples]
    first_tokens = batches[0]["input_ids"][:, 0].tolist()
    assert all(a < b for a, b in pairwise(first_tokens))


def test_the_examples_are_left_alone():
    examples = [make_example(i, 2, 2, 2) for i in range(2)]
    before = [{k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in e.items()} for e in examples]
    Collator(PAD, 0.5, 100)(examples)
    for example, copy in zip(examples, before, strict=True):
        assert example.keys() == copy.keys()
        assert all(torch.equal(example[k], copy[k]) for k in copy if k != "id")


def test_examples_without_an_id_are_numbered():
    examples = [make_example(i, 2, 0, 2) for i in range(2)]
    del examples[1]["id"]
    assert Collator(PAD)(examples)["ids"] == ["example 0", "1"]


def test_an_example_over_the_budget_is_named():
    examples = [make_example(0, 2, 0, 2), make_example(1, 2, 4, 2)]
    with pytest.raises(ValueError, match="example 'example 1' keeps 12 tokens, more than max_tokens 11"):
        Collator(PAD, 0.5, 11)(examples)
    assert Collator(PAD, 0.5, 12)(examples)["ids"]


def test_frames_of_another_size_are_named():
    odd = make_example(1, 2, 1, 2)
    odd["pixel_values_videos"] = odd["pixel_values_videos"][:, :4]
    with pytest.raises(ValueError, match=r"example 'example 1' has frames of \(4, 3\)"):
        Collator(PAD)([make_example(0, 2, 1, 2), odd])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"prune_ratio": 1.0}, "prune_ratio is 1.0"),
        ({"prune_ratio": -0.1}, "prune_ratio is -0.1"),
        ({"max_tokens": 0}, "max_tokens is 0"),
    ],
)
def test_settings_out_of_range(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Collator(PAD, **kwargs)


def test_an_empty_batch():
    with pytest.raises(ValueError, match="at least one example"):
        Collator(PAD)([])
