from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.helpers.painted_letters import (
    CONFIG,
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "letters"}, "eval.mode is 'letters', must be logits or generate"),
        ({"batch_size": 0}, "eval.batch_size is 0"),
        ({"max_tokens": 0}, "eval.max_tokens is 0"),
        ({"workers": 0}, "eval.workers is 0"),
        ({"limit": 0}, "eval.limit is 0"),
        ({"max_new_tokens": 0}, "eval.max_new_tokens is 0"),
        ({"bad_videos": "skip"}, "eval.bad_videos is 'skip', must be stop or wrong"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)
