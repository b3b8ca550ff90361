"""What Gemma 4's frames have beyond others': filler behind their patches, and one size for a batch."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.hosts import rows
from tests.helpers.hosts_flat import gemma4_inputs


@torch.no_grad()
def test_filler_is_cut_off_and_frames_of_two_sizes_are_refused():
    (row,) = [row for row in rows() if row.name == "gemma4"]
    model = row.pruned(prune_ratio=0.5)
    found = model(**gemma4_inputs(row.videos, filler=9)).logits
    assert torch.equal(found, model(**row.batch()).logits)
    mixed = [gemma4_inputs([[(2, 6, 9)]]), gemma4_inputs([[(2, 6, 6)]], filler=18)]
    videos = {key: torch.cat([one[key] for one in mixed]) for key in model.host.keys}
    with pytest.raises(ValueError, match="columns and rows of patches, must have one size"):
        model.encode_videos(**videos)
