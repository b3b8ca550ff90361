from __future__ import annotations

import json

import pytest

from stts import STTSConfig


def test_survives_json():
    config = STTSConfig(prune_ratio=0.3, scorer_hidden_dims=(96, 48), policy="temporal", score_noise=0.5)
    assert STTSConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prune_ratio", 1.0),
        ("prune_ratio", -0.1),
        ("insert_after", -1),
        ("pool_width", 0),
        ("policy", "magic"),
        ("aux_loss_weight", -1),
        ("score_noise", -0.5),
        ("reference_threshold", 1.5),
        ("bias_floor", 0),
        ("bias_norm", "column"),
        ("position_ids", "new"),
        ("attention", "fast"),
    ],
)
def test_values_out_of_range_are_named(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value!r}, must"):
        STTSConfig(**{field: value})
    with pytest.raises(ValueError, match=f"{field} is {value!r}"):
        STTSConfig().replace(**{field: value})


def test_merging_and_putting_back_exclude_each_other():
    with pytest.raises(ValueError, match="put_back is True, must be False under policy tome"):
        STTSConfig(policy="tome", put_back=True)


def test_unknown_settings_are_named():
    with pytest.raises(ValueError, match="unknown STTS setting prun_ratio; known: attention"):
        STTSConfig.from_dict({"prun_ratio": 0.5})


def test_windows_follow_from_the_host():
    config = STTSConfig(prune_ratio=0.3)
    filled = config.for_windows(2)
    assert (config.pool_width, filled.pool_width) == (None, 2)
    assert filled == config
    assert filled.for_windows(2).pool_width == 2
    with pytest.raises(ValueError, match="pool_width is 2, but one token of this model reads 3 x 3 patches"):
        filled.for_windows(3)
