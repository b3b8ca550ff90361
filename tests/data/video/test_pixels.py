from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stts.data.video.pixels import normalize, patchify, resize_frames
from tests.helpers.paths import DATA

GOLDEN = load_file(DATA / "pixels.safetensors")
SIZES = {"up": 126, "tall": 84, "noise": 126}


@pytest.mark.parametrize("case", SIZES)
def test_patches_equal_transformers(case):
    """Enlarged, shrunk and odd-sized frames, against Molmo2VideoProcessor with torchvision."""
    frames = GOLDEN[f"{case}/frames"].numpy()
    patches = patchify(torch.from_numpy(resize_frames(frames, SIZES[case])), 14)
    assert patches.dtype == torch.uint8
    assert torch.equal(patches, GOLDEN[f"{case}/levels"])


def test_normalized_patches_equal_transformers():
    frames = GOLDEN["tall/frames"].numpy()
    patches = normalize(patchify(torch.from_numpy(resize_frames(frames, 84)), 14))
    assert patches.dtype == torch.float32
    torch.testing.assert_close(patches, GOLDEN["tall/pixel_values_videos"], rtol=0, atol=1e-6)


def test_normalize_by_hand():
    levels = normalize(torch.tensor([0, 51, 255], dtype=torch.uint8))
    torch.testing.assert_close(levels, torch.tensor([-1, -0.6, 1]), rtol=0, atol=1e-6)


def test_resize_equals_bilinear_by_hand():
    """Centres of the 3 pixels of the result lie at -1/6, 1/2 and 7/6 of the 2 pixels of the source."""
    frame = np.array([[0, 90], [30, 240]], np.uint8)[None, :, :, None].repeat(3, axis=3)
    resized = resize_frames(frame, 3)[0, :, :, 1]
    assert resized.tolist() == [[0, 45, 90], [15, 90, 165], [30, 135, 240]]


@pytest.mark.parametrize("num_threads", [1, 2])
def test_resize_does_not_depend_on_threads(num_threads):
    """Loader workers run on one thread, evaluation on many: halfway values must round alike."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        test_patches_equal_transformers("tall")
    finally:
        torch.set_num_threads(before)


def test_resize_treats_frames_alone():
    frames = np.random.default_rng(0).integers(0, 256, (3, 50, 70, 3), np.uint8)
    together = resize_frames(frames, 28)
    for frame, expected in zip(frames, together, strict=True):
        assert np.array_equal(resize_frames(frame[None], 28)[0], expected)
    assert resize_frames(together, 28) is together  # nothing to do


def test_patchify_equals_a_slow_loop():
    frames = torch.randint(0, 256, (2, 6, 9, 3), dtype=torch.uint8)
    patches = patchify(frames, 3)
    assert patches.shape == (2, 6, 27)
    for t in range(2):
        for row in range(2):
            for column in range(3):
                patch = frames[t, row * 3 : row * 3 + 3, column * 3 : column * 3 + 3]
                assert torch.equal(patches[t, row * 3 + column], patch.flatten())


def test_patchify_refuses_a_size_that_does_not_divide():
    with pytest.raises(ValueError, match="28 x 30 pixels, must be a multiple of patch_size 14"):
        patchify(torch.zeros(1, 28, 30, 3, dtype=torch.uint8), 14)
