"""With a layout that says the sizes, videos are encoded and pruned without a value read back from the device."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from stts.pruning.layout import BatchLayout
from tests.helpers.hosts import rows

WAIT = ("smolvlm", "idefics3")
"""Whose own code looks for frames of zeros."""


OTHERS = [row for row in rows() if not row.name.startswith("molmo2")]
"""Molmo2 has a test of its own, with every policy and a backward pass."""


@pytest.mark.parametrize("row", OTHERS, ids=lambda row: row.name)
@torch.no_grad()
def test_a_device_that_holds_no_values_is_enough(monkeypatch, row):
    """Tensors of the meta device have shapes alone: whatever asks for a value of one fails."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())  # meta has none
    inputs, model = row.batch(), row.pruned(prune_ratio=0.5, attention="varlen").to("meta", torch.bfloat16)
    layout = BatchLayout(
        tuple(t for t, *_ in row.total),
        tuple(inputs["attention_mask"].sum(1).tolist()),
        tuple(number for number, videos in enumerate(row.videos) for _ in videos),
        tuple((h, w) for _, h, w in row.total),
    )
    videos = {key: inputs[key] for key in model.host.keys if key in inputs}
    videos = {key: x.to("meta") if isinstance(x, torch.Tensor) else x for key, x in videos.items()}
    if row.name in WAIT:
        with pytest.raises((NotImplementedError, RuntimeError)):
            model.encode_videos(layout=layout, **videos)
        return
    kept = sum(t * h * w // row.unit**2 - t * h * w // row.unit**2 // 2 + row.behind for t, h, w in row.total)
    assert len(model.encode_videos(layout=layout, **videos).features) == kept
