from __future__ import annotations

import dataclasses
import json
import math
import random
from collections import Counter
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stts.data.datasets import Mixture
from stts.data.feed.account import BadDataError, data_sums, feed_row
from stts.data.feed.budget import Budget, Size, look_ahead
from stts.data.feed.collator import Collator
from stts.data.feed.feed import Feed, FeedSpec
from stts.data.feed.order import Place
from stts.data.feed.shorten import shorten
from stts.data.processors.molmo2 import IGNORE
from stts.data.video.read import VideoError
from stts.files.durable import read_rows

WINDOWS = 4


def example(name, before, frames, after, answers=2):
    """`before` text tokens, a video, `after` tokens of which every second half of `answers` turns is supervised."""
    kinds = [0] * before + [1] * (frames * WINDOWS) + [0] * after
    labels = torch.full((len(kinds),), IGNORE)
    turn = max(after // answers, 2)
    for i in range(len(kinds) - after, len(kinds)):
        if (i - (len(kinds) - after)) % turn >= turn // 2:
            labels[i] = 100 + i
    made = {
        "id": name,
        "input_ids": torch.arange(len(kinds)) + 100,
        "labels": labels,
        "mm_token_type_ids": torch.tensor(kinds),
    }
    if frames:
        index = torch.arange(frames * WINDOWS).view(-1, 1)
        grid = torch.tensor([[frames, 2, 2]])
        pixels = torch.zeros(frames, WINDOWS, 3, dtype=torch.uint8)
        made |= {"pixel_values_videos": pixels, "video_token_pooling": index, "video_grids": grid}
    return made


class Clips(torch.utils.data.Dataset):
    """Examples of different sizes, made when asked for; `bad` ones cannot be read."""

    def __init__(self, num, bad=(), max_bad_fraction=0.0, seed=0):
        draw = random.Random(seed)
        self.sizes_of = [(draw.randint(1, 5), draw.randint(0, 6), draw.randint(2, 12)) for _ in range(num)]
        self.bad, self.max_bad_fraction = set(bad), max_bad_fraction

    def __len__(self):
        return len(self.sizes_of)

    def __getitem__(self, index):
        if index in self.bad:
            raise VideoError(f"clip{index}.mp4: is empty (0 bytes)")
        return example(f"e{index}", *self.sizes_of[index])

    def name_of(self, index):
        return f"rows.jsonl:{index + 1}"


def feed(data, place=None, budget=(40, 8), rank=0, processes=1, **spec):
    collate = Collator(0, 0.5, *budget)
    return Feed(data, collate, FeedSpec(rank=rank, num_processes=processes, **spec), place)


def seen(batches):
    return [(batch["ids"], batch["sequence_ids"].tolist()) for batch in batches]


# --- which examples share a row

sizes = st.lists(
    st.tuples(st.integers(1, 20), st.integers(0, 9)).map(lambda s: Size(*s)), min_size=1, max_size=25
)


@given(sizes=sizes, rows=st.integers(1, 4), tokens=st.integers(20, 60), frames=st.none() | st.integers(9, 20))
def test_rows_keep_both_budgets_take_the_oldest_and_leave_nothing_that_fits(sizes, rows, tokens, frames):
    found = look_ahead(sizes, Budget(tokens, frames), rows)
    numbers = [i for row in found for i in row]
    assert 1 <= len(found) <= rows
    assert 0 in numbers
    assert len(set(numbers)) == len(numbers)
    room = [
        (tokens - sum(sizes[i].tokens for i in row), (frames or math.inf) - sum(sizes[i].frames for i in row))
        for row in found
    ]
    assert all(t >= 0 and f >= 0 for t, f in room)
    left = [size for i, size in enumerate(sizes) if i not in numbers]
    assert not any(size.tokens <= t and size.frames <= f for size in left for t, f in room)
    assert not left or len(found) == rows


def test_looking_ahead_fills_rows():
    draw = random.Random(3)
    stream = [Size(draw.randint(50, 700), 8) for _ in range(600)]
    budget, waiting, filled, rows = Budget(1000), [], 0, 0
    for size in stream:
        waiting.append(size)
        if len(waiting) == 32:
            (row,) = look_ahead(waiting, budget, 1)
            filled, rows = filled + sum(waiting[i].tokens for i in row), rows + 1
            waiting = [size for i, size in enumerate(waiting) if i not in row]
    in_order, load = 1, 0
    for size in stream:
        load += size.tokens
        if load > 1000:
            in_order, load = in_order + 1, size.tokens
    assert filled / (rows * 1000) > 0.97
    assert sum(size.tokens for size in stream) / (in_order * 1000) < 0.8


# --- batches


@pytest.mark.parametrize("spec", [{"batch_size": 3}, {"batch_size": 2, "pack_buffer": 7}])
def test_an_epoch_holds_every_example_once(spec):
    batches = list(islice(feed(Clips(40), **spec), 30))
    order, place = feed(Clips(40), **spec).order, batches[-1]["place"]
    assert place.drawn > 40
    taken = [name for batch in batches for name in batch["ids"]]
    taken += [f"e{order[position]}" for position in place.waiting]
    assert Counter(taken) == Counter(f"e{order[position]}" for position in range(place.drawn))
    assert set(taken) == {f"e{i}" for i in range(40)}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("buffer", [0, 6])
def test_going_on_anywhere_gives_the_same_batches(tmp_path, workers, buffer):
    """With bad and too long examples among them, and however many workers read."""
    data = Clips(30, bad={3, 11}, max_bad_fraction=0.1)
    data.sizes_of[7] = (5, 6, 60)
    spec = {"batch_size": 2, "pack_buffer": buffer, "too_long": "skip", "log": tmp_path / "left_out.jsonl"}
    straight = list(islice(feed(data, **spec), 25))
    for stop in (1, 9, 17) if not workers else (9,):
        place = Place.from_dict(json.loads(json.dumps(dataclasses.asdict(straight[stop - 1]["place"]))))
        going_on = feed(data, place, num_workers=workers, **spec).batches()
        rest = list(islice(going_on, 25 - stop))
        going_on.close()
        assert seen(rest) == seen(straight[stop:])
        assert [batch["place"] for batch in rest] == [batch["place"] for batch in straight[stop:]]
        for a, b in zip(rest, straight[stop:], strict=True):
            assert a["layout"] == b["layout"]
            assert torch.equal(a["input_ids"], b["input_ids"])
    place = straight[-1]["place"]
    assert place.bad == tuple(f"rows.jsonl:{i + 1}" for i in data.bad if f"rows.jsonl:{i + 1}" in place.bad)
    assert len(place.bad) == 2
    assert place.too_long >= 1
    log = read_rows(tmp_path / "left_out.jsonl")
    assert sorted((row["example"], row["what"]) for row in log) == [
        ("e7", "skipped"), ("rows.jsonl:12", "unreadable"), ("rows.jsonl:4", "unreadable"),
    ]  # fmt: skip
    assert "clip3.mp4: is empty" in next(row["reason"] for row in log if row["example"] == "rows.jsonl:4")


def test_two_processes_read_different_examples():
    data = Clips(60)
    spec = {"batch_size": 2, "pack_buffer": 4, "processes": 2}
    shares = [
        {name for batch in islice(feed(data, rank=rank, **spec), 5) for name in batch["ids"]}
        for rank in (0, 1)
    ]
    assert not shares[0] & shares[1]
    assert all(len(share) > 10 for share in shares)


def test_a_mixture_is_drawn_by_its_weights():
    mixed = Mixture({"a": Clips(5), "b": Clips(50, seed=1)}, {"a": 3.0, "b": 1.0})
    ids = [
        name for batch in islice(feed(mixed, budget=(None, None), batch_size=4), 50) for name in batch["ids"]
    ]
    assert Counter(name[0] for name in ids)["a"] == pytest.approx(150, abs=2)
    by_size = Mixture({"a": Clips(5), "b": Clips(50)})
    ids = [
        name
        for batch in islice(feed(by_size, budget=(None, None), batch_size=5), 44)
        for name in batch["ids"]
    ]
    assert Counter(name[0] for name in ids)["a"] == pytest.approx(20, abs=2)
    assert mixed[5]["id"] == "b/e0"
    assert mixed.name_of(5) == "rows.jsonl:1"


def test_the_metrics_say_how_full_rows_are():
    data, spec = Clips(40), {"batch_size": 2, "pack_buffer": 8}
    batches = list(islice(feed(data, **spec), 3))
    row = feed_row(data_sums(batches, batches[-1]["place"]), Budget(40, 8))
    sizes = {f"e{i}": Collator(0, 0.5).size(data[i]) for i in range(40)}
    ids = [name for batch in batches for name in batch["ids"]]
    assert row["examples"] == len(ids)
    assert row["fill"] == sum(sizes[name].tokens for name in ids) / (6 * 40)
    assert row["fill_frames"] == sum(sizes[name].frames for name in ids) / (6 * 8)
    assert (row["bad"], row["too_long"]) == (0, 0)
    by_hand = Collator(0)([data[0], data[1]])
    assert feed_row(data_sums([by_hand], Place()), Budget()) == {"examples": 2, "bad": 0, "too_long": 0}


# --- bad data


def test_more_bad_examples_than_allowed_stop_with_a_list(tmp_path, caplog):
    log = tmp_path / "left_out.jsonl"
    data = Clips(50, bad={4, 8, 15}, max_bad_fraction=0.05)
    with pytest.raises(BadDataError, match=r"3 of 50 .* allows 2; all are in .*left_out\.jsonl") as error:
        list(islice(feed(data, batch_size=2, log=log), 25))
    for i in data.bad:
        assert f"rows.jsonl:{i + 1}: clip{i}.mp4: is empty (0 bytes)" in str(error.value)
        assert f"unreadable: rows.jsonl:{i + 1}: clip{i}.mp4: is empty" in caplog.text
    assert {row["example"] for row in read_rows(log)} == {f"rows.jsonl:{i + 1}" for i in data.bad}
    data.bad.remove(15)
    batches = list(islice(feed(data, batch_size=2, log=log), 60))  # two epochs: the same ones count once
    assert len(batches[-1]["place"].bad) == 2


def test_by_default_the_first_bad_example_stops():
    with pytest.raises(BadDataError, match=r"1 of 9 .*\n.*clip2\.mp4: is empty"):
        list(islice(feed(Clips(9, bad={2}), batch_size=3), 3))


def test_nothing_but_bad_examples_ends():
    data = Clips(5, bad=range(5), max_bad_fraction=1.0)
    with pytest.raises(BadDataError, match="not one example"):
        next(iter(feed(data, batch_size=2)))


# --- too long


@pytest.mark.parametrize(("size", "limit"), [((2, 1, 60), "max_tokens 40"), ((2, 9, 2), "max_frames 8")])
def test_an_example_no_row_can_hold(tmp_path, size, limit):
    data = Clips(6)
    data.sizes_of = [(1, 1, 4)] * 5 + [size]
    for buffer in (0, 3):
        with pytest.raises(ValueError, match=rf"'e5' .* more than {limit}.*train\.too_long"):
            list(islice(feed(data, batch_size=2, pack_buffer=buffer), 6))
    log = tmp_path / "log"
    batches = list(islice(feed(data, batch_size=2, too_long="skip", log=log), 6))
    assert "e5" not in {name for batch in batches for name in batch["ids"]}
    assert batches[-1]["place"].too_long >= 2  # in each epoch
    assert [row["example"] for row in read_rows(log)] == ["e5"]
    assert limit in read_rows(log)[0]["reason"]


@given(
    before=st.integers(0, 6), frames=st.integers(0, 4), after=st.integers(8, 40), tokens=st.integers(4, 40),
    answers=st.integers(1, 5),
)  # fmt: skip
def test_truncation_cuts_text_only_and_no_more_than_it_must(before, frames, after, tokens, answers):
    whole, collate = example("x", before, frames, after, answers), Collator(0, 0.5, tokens)
    size = collate.size(whole)
    if size.tokens <= tokens:
        return
    visible = size.tokens - after  # what is in front of the text that may be cut
    first = next(i for i, label in enumerate(whole["labels"].tolist()) if label != IGNORE)
    if visible + (first - before - frames * WINDOWS) + 1 > tokens:
        with pytest.raises(ValueError, match=r"'x' keeps .* cutting its text is not enough"):
            shorten(whole, collate)
        return
    cut = shorten(whole, collate)
    length = len(cut["input_ids"])
    for key in ("input_ids", "labels", "mm_token_type_ids"):
        assert torch.equal(cut[key], whole[key][:length])
    assert cut["mm_token_type_ids"].sum() == frames * WINDOWS
    assert cut["labels"][-1] != IGNORE  # no question is left without the beginning of its answer
    kept = collate.size(cut).tokens
    assert kept <= tokens
    assert not any(label != IGNORE for label in whole["labels"][length : length + tokens - kept].tolist())


def test_going_on_does_not_count_a_waiting_example_twice():
    data = Clips(6)
    data.sizes_of = [(1, 1, 4)] * 3 + [(2, 1, 60)] * 3
    spec = {"batch_size": 1, "pack_buffer": 5, "too_long": "truncate_text"}
    straight = list(islice(feed(data, **spec), 8))
    for stop in range(1, 8):
        rest = list(islice(feed(data, straight[stop - 1]["place"], **spec), 8 - stop))
        assert [batch["place"] for batch in rest] == [batch["place"] for batch in straight[stop:]]
    assert straight[-1]["place"].too_long > 3


def test_truncated_examples_are_trained_on_and_named(tmp_path):
    data = Clips(4)
    data.sizes_of = [(1, 1, 4)] * 3 + [(2, 1, 60)]
    log = tmp_path / "log"
    batches = list(islice(feed(data, batch_size=2, too_long="truncate_text", log=log), 2))
    assert "e3" in {name for batch in batches for name in batch["ids"]}
    assert [(row["example"], row["what"]) for row in read_rows(log)] == [("e3", "shortened")]
    assert batches[-1]["place"].too_long == 1


def test_an_example_that_no_cut_makes_fit_is_skipped_and_named(tmp_path):
    data = Clips(4)
    data.sizes_of = [(1, 1, 4)] * 3 + [(60, 1, 4)]
    log = tmp_path / "log"
    batches = list(islice(feed(data, batch_size=2, too_long="truncate_text", log=log), 4))
    assert "e3" not in {name for batch in batches for name in batch["ids"]}
    assert [(row["example"], row["what"]) for row in read_rows(log)] == [("e3", "skipped")]
    reason = read_rows(log)[0]["reason"]
    assert "raise max_tokens or prune_ratio, or take fewer frames; cutting its text is not enough" in reason
    assert batches[-1]["place"].too_long >= 1
    with pytest.raises(BadDataError, match="not one example of the training data can be read and fits"):
        next(iter(feed(data, budget=(2, 8), batch_size=1, too_long="truncate_text")))


# --- longer than the model's context


@pytest.mark.parametrize(
    ("position_ids", "tokens", "told"),
    [("original", 23, True), ("original", 24, False), ("compact", 16, False), ("compact", 15, True)],
)
def test_the_first_example_past_the_models_context_is_told(caplog, position_ids, tokens, told):
    data = Clips(4)
    data.sizes_of = [(4, 4, 4)] * 4  # 24 tokens, 16 of them after pruning
    spec = {"context_length": tokens, "position_ids": position_ids}
    assert len(list(islice(feed(data, batch_size=2, **spec), 3))) == 3
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == told
    for text in texts:
        assert "24 tokens with 4 frames, 16 after pruning" in text
        assert f"the model's max_position_embeddings is {tokens}" in text
        assert ("or position_ids=compact" in text) == (position_ids == "original")


# --- what counts the same in the loss


def test_loss_weights_add_up_to_one_over_each_example():
    examples = [example("a", 1, 1, 4), example("b", 2, 2, 12), example("c", 3, 0, 2)]
    examples[2]["labels"][:] = IGNORE
    batch = Collator(0, 0.5, 60, loss_weight="example")(examples)
    weights, sequences = batch["loss_weights"], batch["sequence_ids"]
    assert weights.dtype == torch.float32
    assert torch.equal(weights > 0, batch["labels"] != IGNORE)
    sums = [weights[sequences == i].sum().item() for i in range(3)]
    assert sums == pytest.approx([1, 1, 0])
    assert "loss_weights" not in Collator(0, 0.5, 60)(examples)
    with pytest.raises(ValueError, match="loss_weight is 'word'"):
        Collator(0, loss_weight="word")
