from __future__ import annotations

import dataclasses
import json
import pickle
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stts.data.feed import order as module
from stts.data.feed.order import Order, Place, deal_again, positions


def drawn(order, count, start=0):
    return [order[position] for position in range(start, start + count)]


def test_every_epoch_is_a_permutation_of_its_own():
    flat = drawn(Order([10], seed=4), 60)
    epochs = [tuple(flat[i : i + 10]) for i in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(epochs)) == 6
    assert tuple(drawn(Order([10], seed=5), 10)) not in epochs
    assert drawn(Order([10], seed=4), 13, start=21) == flat[21:34]


def test_parts_without_weights_are_one():
    assert drawn(Order([4, 6], seed=1), 30) == drawn(Order([10], seed=1), 30)


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_a_mixture_draws_by_weight_and_goes_through_each_part(sizes, seed, data):
    weights = data.draw(st.lists(st.floats(0.05, 9), min_size=len(sizes), max_size=len(sizes)))
    start = data.draw(st.integers(0, 500))
    order = Order(sizes, seed, weights)
    stream = drawn(order, start + 400)
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    parts = [next(i for i, end in enumerate(ends) if index < end) for index in stream]
    counts = Counter(parts[start:])
    for part, weight in enumerate(weights):
        assert abs(counts[part] - 400 * weight / sum(weights)) < 6  # any stretch, not only from the beginning
        own = [
            index - (ends[part] - sizes[part]) for index, p in zip(stream, parts, strict=True) if p == part
        ]
        whole = len(own) // sizes[part] * sizes[part]
        for epoch in range(0, whole, sizes[part]):
            assert sorted(own[epoch : epoch + sizes[part]]) == list(range(sizes[part]))


def test_far_positions_and_copies_agree_with_counting(monkeypatch):
    expected = drawn(Order([3, 5], 0, [1, 2]), 300)
    monkeypatch.setattr(module, "BLOCK", 32)
    order = Order([3, 5], 0, [1, 2])
    assert drawn(order, 300) == expected
    assert [Order([3, 5], 0, [1, 2])[position] for position in range(290, 300)] == expected[290:]
    assert drawn(pickle.loads(pickle.dumps(order)), 300) == expected


def test_no_data_is_refused():
    for sizes in ([], [0], [3, 0]):
        with pytest.raises(ValueError, match="no examples"):
            Order(sizes, seed=0)


def test_processes_share_every_batch_between_them():
    whole = list(islice(positions(Place(), 6, 0, 1), 30))
    parts = [list(islice(positions(Place(), 3, rank, 2), 15)) for rank in (0, 1)]
    assert [p for i in range(0, 15, 3) for part in parts for p in part[i : i + 3]] == whole == list(range(30))


def test_going_on_begins_with_what_was_waiting():
    place = Place(start=10, drawn=4, waiting=(12, 10))
    assert list(islice(positions(place, 2, 1, 2), 5)) == [12, 10, 20, 21, 24]
    assert Place.from_dict(json.loads(json.dumps(dataclasses.asdict(place)))) == place


@settings(deadline=None)
@given(
    before=st.integers(1, 4),
    after=st.integers(1, 4),
    batch_size=st.integers(1, 3),
    start=st.integers(0, 20),
    data=st.data(),
)
def test_another_number_of_processes_loses_nothing_and_repeats_nothing(
    before, after, batch_size, start, data
):
    """Whatever each of the old ones has trained on, the new ones go through the rest exactly once."""
    places, trained = [], []
    for rank in range(before):
        turns = data.draw(st.integers(0, 7))
        own = list(islice(positions(Place(start), batch_size, rank, before), turns))
        waiting = data.draw(st.lists(st.sampled_from(own), unique=True)) if own else []
        places.append(Place(start, turns, tuple(sorted(waiting)), bad=("x", f"y{rank}"), too_long=rank))
        trained += [position for position in own if position not in waiting]
    new = deal_again(places, batch_size, after)
    assert len(new) == after
    coming = [p for r, place in enumerate(new) for p in islice(positions(place, batch_size, r, after), 80)]
    assert len(set(coming)) == len(coming)
    assert not set(coming) & set(trained)
    assert set(range(start, start + 60)) <= set(coming) | set(trained)
    assert {name for place in new for name in place.bad} == {"x", *(f"y{rank}" for rank in range(before))}
    assert sum(place.too_long for place in new) == sum(range(before))
