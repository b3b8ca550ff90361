"""What Gemma 4's frames have beyond others': filler behind their patches, in a pruned pass and in a whole one."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.hosts import rows
from tests.helpers.hosts_flat import gemma4_inputs


@pytest.mark.parametrize("ratio", [0.0, 0.5])
@torch.no_grad()
def test_filler_has_no_effect(ratio):
    (row,) = [row for row in rows() if row.name == "gemma4"]
    model = row.pruned(prune_ratio=ratio)
    found = model(**gemma4_inputs(row.videos, filler=9)).logits
    torch.testing.assert_close(found, model(**row.batch()).logits, rtol=0, atol=1e-4)
