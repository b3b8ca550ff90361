from __future__ import annotations

import numpy as np
import pytest
import torch

from stts.data.feed.collator import Collator
from stts.data.video.pixels import patchify, unpatchify
from stts.viz.overlay import draw_batch, first_video


def example(frames: np.ndarray, patch_size: int, name: str) -> dict:
    side = frames.shape[1] // patch_size // 3  # windows of 3 x 3 patches
    grid = torch.tensor([[len(frames), side, side]])
    tokens = len(frames) * side * side
    return {
        "id": name,
        "input_ids": torch.zeros(tokens, dtype=torch.long),
        "labels": torch.full((tokens,), -100),
        "mm_token_type_ids": torch.ones(tokens, dtype=torch.long),
        "pixel_values_videos": patchify(torch.from_numpy(frames), patch_size),
        "video_token_pooling": torch.zeros(tokens, 9, dtype=torch.long),
        "video_grids": grid,
    }


@pytest.fixture
def batch() -> tuple[dict, np.ndarray]:
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, 256, (t, 24, 24, 3), dtype="uint8") for t in (3, 2)]
    return Collator(0)([example(clip, 4, f"clip{i}") for i, clip in enumerate(clips)]), clips[0]


def test_unpatchify_inverts_patchify():
    frames = torch.randint(0, 256, (2, 20, 20, 3), dtype=torch.uint8)
    assert torch.equal(unpatchify(patchify(frames, 5)), frames)


def test_the_first_video_comes_back_with_what_was_kept_of_it(batch):
    batch, clip = batch
    keep = torch.arange(5 * 4).reshape(5, 4) % 3 == 0
    frames, kept = first_video(batch, keep)
    assert np.array_equal(frames, clip)
    assert kept.shape == (3, 2, 2)
    for t in range(3):
        for row in range(2):
            for col in range(2):
                assert kept[t, row, col] == ((4 * t + 2 * row + col) % 3 == 0)


def test_a_picture_is_written_when_something_was_pruned(batch, tmp_path):
    batch, _ = batch
    assert draw_batch(batch, None, "scorer", tmp_path / "a.png") is None
    assert not list(tmp_path.iterdir())
    path = draw_batch(batch, torch.ones(5, 4, dtype=torch.bool), "scorer", tmp_path / "deep" / "a.png")
    assert path.read_bytes().startswith(b"\x89PNG")
