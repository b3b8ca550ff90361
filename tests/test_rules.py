"""Rules beside fields, and settings of earlier versions that are gone."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import stts
from stts import STTSConfig
from stts.rules import above, at_least, between, check_rules, one_of, or_null, refuse_gone, without_gone
from stts.settings.typed import from_dict
from stts.train.config import TrainConfig
from stts.train.run_folder import check_output_dir, write_settings


@dataclass(frozen=True)
class Made:
    steps: int = field(default=1, metadata=at_least(1))
    decay: float = field(default=0.0, metadata=at_least(0))
    rate: float = field(default=1.0, metadata=above(0))
    share: float = field(default=0.5, metadata=between(0, 1, "[)"))
    floor: float = field(default=0.5, metadata=between(0, 1, "(]"))
    mode: str = field(default="a", metadata=one_of("a", "b"))
    kind: str = field(default="k", metadata=one_of("k", "l", "m", "n"))
    limit: int | None = field(default=None, metadata=or_null(at_least(1)))
    free: Any = None

    def __post_init__(self) -> None:
        check_rules(self, "train", share="share")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "train.steps is 0, must be at least 1"),
        ({"decay": -0.5}, "train.decay is -0.5, must be 0 or more"),
        ({"rate": 0.0}, "train.rate is 0.0, must be above 0"),
        ({"rate": float("nan")}, "train.rate is nan, must be above 0"),
        ({"share": 1.0}, "share is 1.0, must be in [0, 1)"),
        ({"floor": 0.0}, "train.floor is 0.0, must be in (0, 1]"),
        ({"floor": 1.5}, "train.floor is 1.5, must be in (0, 1]"),
        ({"mode": "c"}, "train.mode is 'c', must be a or b"),
        ({"kind": "o"}, "train.kind is 'o', must be one of k, l, m, n"),
        ({"limit": 0}, "train.limit is 0, must be at least 1 or null"),
    ],
)
def test_a_field_that_breaks_its_rule_is_named_with_the_rule(values, message):
    with pytest.raises(ValueError) as refused:  # noqa: PT011 (the whole text is compared)
        Made(**values)
    assert str(refused.value) == message


def test_values_at_the_ends_of_their_range_are_taken():
    Made(steps=1, decay=0, share=0.0, floor=1.0, mode="b", kind="n", limit=1)


def test_a_setting_that_is_gone_loads_where_it_said_to_do_without():
    saved = STTSConfig(prune_ratio=0.3).to_dict()
    assert STTSConfig.from_dict(saved | {"center_targets": False}) == STTSConfig(prune_ratio=0.3)
    assert without_gone({"stts": {"center_targets": False, "pool_width": 3}}) == {"stts": {"pool_width": 3}}
    message = r"stts\.center_targets=True is gone: it taught .*394e82f"
    for call in (
        lambda: STTSConfig.from_dict(saved | {"center_targets": True}),
        lambda: stts.load("tiny", center_targets=True),
        lambda: without_gone({"stts": {"center_targets": True}}),
        lambda: refuse_gone({"stts": {"center_targets": True}}),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_saved_model_of_an_earlier_version_loads_or_says_what_is_gone(tiny_folder: Path, tmp_path: Path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    for value in (False, True):
        config["stts"] = STTSConfig(policy="random").to_dict() | {"center_targets": value}
        (folder / "config.json").write_text(json.dumps(config))
        if not value:
            assert stts.load(str(folder), prune_ratio=0.25)[0].stts.prune_ratio == 0.25
        else:
            with pytest.raises(ValueError, match=r"config\.json.*stts\.center_targets=True is gone"):
                stts.load(str(folder))


def test_a_run_of_an_earlier_version_goes_on_or_says_what_is_gone(tmp_path: Path):
    (tmp_path / "checkpoints" / "step-0000001").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-0000001" / "progress.json").write_text("{}")
    write_settings(tmp_path, {"stts": {"pool_width": 3, "center_targets": False}})
    check_output_dir(tmp_path, {"stts": {"pool_width": 3}})
    write_settings(tmp_path, {"stts": {"pool_width": 3, "center_targets": True}})
    with pytest.raises(ValueError, match=r"stts\.center_targets=True is gone"):
        check_output_dir(tmp_path, {"stts": {"pool_width": 3}})


def test_a_value_of_another_type_is_told_the_names_there_are():
    """YAML makes a truth value of no, which from_dict cannot take back."""
    with pytest.raises(ValueError, match=r"^mode is 3, must be a or b$"):
        from_dict(Made, {"mode": 3})
    with pytest.raises(
        ValueError, match=r"^train\.mixed_precision is False, must be auto, bf16 or no, in quotes$"
    ):
        from_dict(TrainConfig, {"mixed_precision": False}, "train")
