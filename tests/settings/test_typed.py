"""Settings from nested plain values: whatever stands in them is taken, or refused by its key."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stts import STTSConfig
from stts.data.video.config import VideoConfig
from stts.eval.config import EvalConfig
from stts.hosts.folders import ModelSpec
from stts.settings.typed import from_dict
from stts.train.config import TrainConfig, WandbConfig

CLASSES = {
    "stts": STTSConfig,
    "train": TrainConfig,
    "eval": EvalConfig,
    "video": VideoConfig,
    "model": ModelSpec,
    "wandb": WandbConfig,
}
NEEDED = {
    "eval": {"benchmark": "b", "video": {"frames": 4}},
    "video": {"frames": 4},
    "model": {"name": "tiny"},
}
scalars = st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=5)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


def fields() -> st.SearchStrategy[tuple[str, str]]:
    return st.sampled_from(
        [(where, f.name) for where, cls in CLASSES.items() for f in dataclasses.fields(cls)]
    )


@settings(max_examples=400, derandomize=True, deadline=None)
@given(fields(), values)
def test_any_value_of_any_setting_is_taken_or_refused_by_its_key(
    setting: tuple[str, str], value: Any
) -> None:
    (where, name), told = setting, None
    try:
        from_dict(CLASSES[where], NEEDED.get(where, {}) | {name: value}, where)
    except ValueError as error:
        told = str(error)
    assert told is None or name in told or where in told


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.sampled_from(sorted(CLASSES)), st.text(min_size=1, max_size=12))
def test_a_key_that_is_no_setting_is_refused_by_name(where: str, key: str) -> None:
    if key in {f.name for f in dataclasses.fields(CLASSES[where])}:
        return
    with pytest.raises(ValueError, match="is not a setting") as refused:
        from_dict(CLASSES[where], NEEDED.get(where, {}) | {key: 1}, where)
    assert f"{where}.{key}" in str(refused.value)
