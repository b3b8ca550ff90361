"""Several examples in one row, in hosts other than Molmo2: each as it is alone, or a refusal that says why."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.helpers.host_row import Row
from tests.helpers.hosts import rows

HOSTS = {row.name: row for row in rows()}


def packed(singles: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of examples whose frames are images."""
    lengths = [one["input_ids"].shape[1] for one in singles]
    return {
        "input_ids": torch.cat([one["input_ids"] for one in singles], 1),
        "attention_mask": torch.cat([one["attention_mask"] for one in singles], 1),
        "pixel_values": torch.cat([one["pixel_values"] for one in singles]),
        "frames_per_video": [frames for one in singles for frames in one["frames_per_video"]],
        "position_ids": torch.cat([torch.arange(n) for n in lengths])[None],
        "sequence_ids": torch.arange(len(singles)).repeat_interleave(torch.tensor(lengths))[None],
    }


@pytest.mark.parametrize("implementation", ["sdpa", "eager", "block_sparse"])
@torch.no_grad()
def test_a_packed_row_is_its_examples(implementation: str):
    row = HOSTS["internvl"]
    model, singles = row.pruned(), [row.alone(number) for number in range(2)]
    model.set_attn_implementation({"text_config": implementation})
    for changes in ({}, {"position_ids": "compact"}, {"prune_ratio": 0.0}):
        model.stts = model.stts.replace(**changes)
        apart = torch.cat([model(**one).logits[0] for one in singles])
        together = model(**packed(singles)).logits[0]
        torch.testing.assert_close(together, apart, rtol=0, atol=row.tolerance)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("qwen3_vl", "its positions have three planes"),
        ("gemma3", "its layers of sliding_attention make masks of their own"),
    ],
)
def test_packed_rows_are_refused_where_they_would_mix(name: str, why: str):
    row: Row = HOSTS[name]
    inputs = row.batch()
    ids = torch.zeros_like(inputs["input_ids"])
    with pytest.raises(ValueError, match=rf"sequence_ids are given, .* takes no packed rows: {why}"):
        row.pruned()(**inputs, sequence_ids=ids)


def test_flash_attention_is_refused_with_a_packed_row_alone():
    row = HOSTS["internvl"]
    model, inputs = row.pruned(), packed([row.alone(0), row.alone(1)])
    model.config.text_config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="packed rows need a mask that flash_attention_2 cannot take"):
        model(**inputs)
