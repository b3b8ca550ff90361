from __future__ import annotations

import json

import numpy as np
from matplotlib import image

from stts.visualize import dim_dropped, draw_curves, draw_kept


def test_dropped_windows_are_dark_and_kept_ones_untouched():
    frame = np.full((6, 9, 3), 200, dtype=np.uint8)
    keep = np.array([[True, False, True], [False, True, True]])
    out = dim_dropped(frame, keep)
    for y in range(6):
        for x in range(9):
            kept = keep[y // 3, x // 3]
            assert (out[y, x] == 200).all() if kept else out[y, x].mean() < 100


def test_overlay_has_a_row_per_policy(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (20, 40, 60, 3), dtype=np.uint8)
    keep = np.ones((20, 2, 2), dtype=bool)
    one = image.imread(draw_kept(frames, {"all": keep}, tmp_path / "one.png"))
    two = image.imread(
        draw_kept(
            frames,
            {"all": keep, "none": ~keep},
            tmp_path / "deep" / "two.png",
            timestamps=np.arange(20.0),
            evidence=keep,
            title="a clip",
        )
    )
    assert two.shape[0] > 1.8 * one.shape[0]
    assert two.shape[1] == one.shape[1]


def test_curves_are_drawn_from_a_run(tmp_path):
    rows = [
        {"step": i, "lm_loss": 1 / i, "aux_loss": 0.1, "kept": 0.5, "score_mean": None} for i in (1, 2, 3)
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    picture = image.imread(draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png"))
    assert picture[..., :3].min() < 0.9  # something was drawn
