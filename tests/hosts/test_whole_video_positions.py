"""Positions that run through a whole video are transformers', worked out without reading a token."""

from __future__ import annotations

import pytest
import torch

from stts.hosts.qwen2_vl import positions_of_whole_videos
from tests.helpers.hosts import rows
from tests.helpers.hosts_flat import timed_inputs

VIDEOS = [[(9, 4, 8), (2, 8, 4)], [(3, 6, 8)], []]
"""The first is longer than it is wide: its last unit stands behind the text that follows it."""


@pytest.mark.parametrize("pad", ["left", "right"])
@pytest.mark.parametrize("pixels", [False, True], ids=["videos", "images"])
def test_positions_and_how_far_they_run_ahead(pad, pixels):
    (row,) = [row for row in rows() if row.name == "qwen2_5_vl"]
    host = row.pruned().host
    inputs = timed_inputs(VIDEOS, pad=pad, images=pixels)
    names = ("video_grid_thw", "image_grid_thw", "second_per_grid_ts", "mm_token_type_ids", "attention_mask")
    known = {name: inputs[name] for name in names if name in inputs}
    wanted, ahead = host.model.model.get_rope_index(inputs["input_ids"], **known)
    clips = host.clips(inputs)
    found = host.positions(inputs["input_ids"], inputs["attention_mask"], inputs, clips)
    assert torch.equal(found[0], wanted)
    assert torch.equal(found[1], ahead)


def test_a_single_video_at_one_step_a_unit():
    (row,) = [row for row in rows() if row.name == "qwen2_vl"]
    host, inputs = row.pruned().host, row.alone(0)
    video, mask = row.placeholders(inputs), inputs["attention_mask"]
    found, _ = positions_of_whole_videos(video, mask, host.clips(inputs), torch.ones(1))
    assert found[0, video].view(4, 24).amax(1).sub(found[0, video].min()).tolist() == [0, 1, 2, 3]
