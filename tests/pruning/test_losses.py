from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from stts import temporal_aux_loss
from stts.pruning.similarity import neighbor_similarity
from tests.helpers.goldens import case

CASES = [("single", [6]), ("two_videos", [5, 3]), ("grid27", [4, 3])]


@pytest.mark.parametrize(("name", "videos"), CASES)
def test_equals_the_published_loss_within_videos(name, videos):
    data = case("aux_loss", name)
    scores = data["scores"].clone().requires_grad_()
    loss = temporal_aux_loss(scores, data["hidden"], videos)
    torch.testing.assert_close(loss, data["loss_raw_within_video"], rtol=1e-5, atol=1e-7)
    loss.backward()
    torch.testing.assert_close(scores.grad, data["grad_scores_raw_within_video"], rtol=1e-5, atol=1e-8)
    sims = neighbor_similarity(data["hidden"])
    torch.testing.assert_close(sims, data["neighbour_sims"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "videos"), CASES)
def test_equals_the_published_loss_across_videos(name, videos):
    data = case("aux_loss", name)
    scores, hidden = data["scores"].clone().requires_grad_(), data["hidden"].clone().requires_grad_()
    loss = 0.5 * temporal_aux_loss(scores, hidden, videos, across_videos=True)
    torch.testing.assert_close(loss, data["loss_official"], rtol=1e-5, atol=1e-7)
    loss.backward()
    torch.testing.assert_close(scores.grad, data["grad_scores_official"], rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(hidden.grad, data["grad_hidden_official"], rtol=1e-4, atol=1e-8)


def test_gradient_reaches_the_features_as_published():
    data = case("aux_loss", "single")
    hidden = data["hidden"].clone().requires_grad_()
    (0.5 * temporal_aux_loss(data["scores"], hidden, [6])).backward()
    torch.testing.assert_close(hidden.grad, data["grad_hidden_official"], rtol=1e-4, atol=1e-8)


def test_against_a_loop_on_a_padded_grid():
    torch.manual_seed(0)
    scores, x = torch.rand(5, 4), torch.randn(5, 16, 3)  # 4 x 4 patches: row and column 1 | 2 | 1 of 3 + 3
    loss = temporal_aux_loss(scores, x, [2, 3])
    total, count = 0.0, 0
    cells = F.pad(x.view(5, 4, 4, 3), (0, 0, 1, 1, 1, 1))
    for t in (1, 3, 4):
        for r in range(2):
            for c in range(2):
                now, before = (cells[f, 3 * r : 3 * r + 3, 3 * c : 3 * c + 3].flatten() for f in (t, t - 1))
                total += (scores[t, 2 * r + c] - (1 - F.cosine_similarity(now, before, dim=0))) ** 2
                count += 1
    torch.testing.assert_close(loss, total / count)


def test_no_pair_no_loss():
    loss = temporal_aux_loss(torch.rand(2, 4, requires_grad=True), torch.randn(2, 36, 3), [1, 1])
    assert loss == 0
    loss.backward()


def test_stays_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        loss = temporal_aux_loss(torch.rand(2, 4), torch.randn(2, 36, 3).bfloat16(), [2])
    assert loss.dtype == torch.float32
