"""Relevance against loops over single windows, and the ranking that joins it with novelty."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from stts import STTSConfig
from stts.hosts.folders import as_trained
from stts.pruning.policies import View, choose, with_novelty
from stts.pruning.relevance import SUMS, teach
from stts.pruning.scorer import STTSScorer
from stts.train.metrics import metrics_row, relevance_trouble
from tests.helpers.molmo2 import build, labels_of, make_inputs
from tests.helpers.relevance import slow_loss

TAUGHT = {"relevance_weight": 1.0, "bias_floor": 1.0, "aux_loss_weight": 0.0}


def made_up_batch():
    """Three videos of two sizes, the first of one frame; the last has no gradient; every fifth token is no window."""
    torch.manual_seed(0)
    sizes = [(1, 4), (5, 4), (4, 9), (3, 4)]
    total = sum(t * w for t, w in sizes)
    keep, start = torch.ones(total, dtype=torch.bool), 0
    for t, w in sizes:
        drop = min(math.floor(t * w * 0.5 + 1e-6), (t - 1) * w)
        keep[start + w + torch.randperm((t - 1) * w)[:drop]] = False
        start += t * w
    of_token = []
    for number, window in enumerate(keep.nonzero().flatten().tolist()):
        of_token += [window, -1] if number % 5 == 0 else [window]
    of_token = torch.tensor(of_token)
    tokens, gradient = torch.randn(len(of_token), 6), torch.randn(len(of_token), 6)
    gradient[of_token >= total - 12] = 0
    gradient[of_token < 0] *= 100  # newlines and the like must not be the measure
    return tokens, gradient, torch.rand(total), keep, of_token, sizes


def test_against_loops_over_single_windows():
    tokens, gradient, scores, keep, of_token, sizes = made_up_batch()
    tokens.requires_grad_()
    config = STTSConfig(relevance_weight=1.0)
    for taught in (
        scores.clone().requires_grad_(),
        [scores[a:b].clone().requires_grad_() for a, b in [(0, 24), (24, 72)]],
    ):
        same, relevance = teach(config, tokens, taught, keep, of_token, sizes)
        assert torch.equal(same, tokens)
        assert relevance.loss == 0
        assert relevance.sums is None
        tokens.grad = None
        ((same * gradient).sum() * 1e-3 + 0.25 * relevance.loss).backward()
        torch.testing.assert_close(tokens.grad, gradient * 1e-3)
        parts = taught if isinstance(taught, list) else [taught]
        found = torch.cat([part.grad for part in parts])
        expected = scores.clone().requires_grad_()
        loss = slow_loss(tokens.detach(), gradient, expected, keep, of_token, sizes)
        (0.25 * loss).backward()
        torch.testing.assert_close(found, expected.grad, rtol=1e-4, atol=1e-7)
        later = keep.sum() - sum(w for _, w in sizes)
        sums = dict(zip(SUMS, relevance.sums.tolist(), strict=True))
        assert sums["loss"] / later == pytest.approx(loss.item(), rel=1e-4)
        assert sums["count"] == later - 2  # the last video keeps two windows that teach nothing


def test_what_asks_for_nothing_gets_nothing():
    tokens, _, scores, keep, of_token, sizes = made_up_batch()
    for config in (
        STTSConfig(),
        STTSConfig(relevance_weight=1.0, policy="random"),
        STTSConfig(0.0, relevance_weight=1.0),
    ):
        same, relevance = teach(config, tokens, scores, keep, of_token, sizes)
        assert same is tokens
        assert relevance is None


def test_a_loss_without_it_teaches_nothing():
    model, inputs = build(**TAUGHT).train(), make_inputs([[4], [7]])
    out = model(**inputs, labels=labels_of(inputs))
    out.lm_loss.backward()
    assert out.loss == out.lm_loss
    assert all(p.grad is None or not p.grad.any() for p in model.host.scorer.parameters())


def row_of(sums: torch.Tensor, taught: int) -> dict:
    zeros = dict.fromkeys(
        ("lm_loss", "aux_loss", "kept", "windows", "grad_norm", "churned", "compared", "unpruned_tokens"), 0
    )
    moments = {f"{of}_{what}": 0 for of in ("score", "target") for what in ("count", "sum", "squares")}
    named = {f"relevance_{name}": x for name, x in zip(SUMS, sums.tolist(), strict=True)}
    return metrics_row(zeros | moments | named | {"taught": taught}, STTSConfig(relevance_weight=3.0), 1.0)


def test_what_it_taught_is_told_and_a_warning_when_it_says_nothing():
    r, s = torch.rand(50, dtype=torch.float64), torch.rand(50, dtype=torch.float64)
    s = (s + r) / 2
    sums = torch.stack(
        [
            torch.tensor(50.0),
            r.sum(),
            (r * r).sum(),
            s.sum(),
            (s * s).sum(),
            (r * s).sum(),
            torch.tensor(30.0),
        ]
    )
    row = row_of(sums, 60)
    assert row["relevance_mean"] == pytest.approx(r.mean().item())
    assert row["relevance_std"] == pytest.approx(r.std(correction=0).item())
    assert row["relevance_corr"] == pytest.approx(torch.corrcoef(torch.stack([r, s]))[0, 1].item())
    assert row["loss"] == pytest.approx(3 * row["relevance_loss"]) == pytest.approx(3 * 30 / 60)
    assert relevance_trouble(row) is None
    assert "says nothing: it is 1.000" in relevance_trouble(
        row | {"relevance_mean": 1.0, "relevance_std": 0.0}
    )
    assert "teaches nothing" in relevance_trouble(row_of(torch.zeros(len(SUMS)), 60))
    assert relevance_trouble({"score_mean": 0.5}) is None


def a_view(**settings) -> View:
    torch.manual_seed(3)
    x = torch.randn(7, 36, 16)
    x[2], x[5] = x[1], x[4] + 0.05 * torch.randn(36, 16)  # copies, one exact
    return View(x, [4, 3], (6, 6), 3, STTSConfig(**settings), STTSScorer(16, num_heads=2).eval())


def test_the_ranking_joins_score_and_novelty():
    view = a_view(novelty_power=1.5, score_floor=0.2)
    scores, found = torch.rand(7, 4), None
    found = with_novelty(scores, view)
    patches = [[r * 6 + c for r in range(y, y + 3) for c in range(x, x + 3)] for y in (0, 3) for x in (0, 3)]
    for frame in range(7):
        for window, places in enumerate(patches):
            new = 1.0
            if frame not in (0, 4):
                now, before = (view.features[f][places].flatten() for f in (frame, frame - 1))
                new = min(max(1 - F.cosine_similarity(now, before, dim=0).item(), 0), 1)
            expected = (0.2 + scores[frame, window].item()) / 1.2 * new**1.5
            assert found[frame, window].item() == pytest.approx(expected, abs=1e-5)
    assert not found.requires_grad


def test_what_comes_slowly_adds_up_until_it_is_new():
    torch.manual_seed(0)
    background, event = torch.randn(36, 16), torch.randn(36, 16)
    share = [0, 0, 0.15, 0.3, 0.45, 1, 1, 0]
    fade = torch.stack([background + s * 2 * event for s in share])
    x = torch.cat([fade, torch.randn(3, 36, 16)])
    view = View(x, [8, 3], (6, 6), 3, STTSConfig(novelty_power=1.0, novelty_since=0.3, score_floor=0.0))
    found = with_novelty(torch.ones(11, 4), view)
    patches = [[r * 6 + c for r in range(y, y + 3) for c in range(x, x + 3)] for y in (0, 3) for x in (0, 3)]
    for start, frames in ((0, 8), (8, 3)):
        for window, places in enumerate(patches):
            seen = x[start][places].flatten()
            for frame in range(start + 1, start + frames):
                now = x[frame][places].flatten()
                new = 1 - F.cosine_similarity(now, seen, dim=0).item()
                assert found[frame, window].item() == pytest.approx(min(max(new, 0), 1), abs=1e-5)
                seen = now if new > 0.3 else seen
    before = with_novelty(torch.ones(11, 4), replace(view, config=view.config.replace(novelty_since=0.0)))
    assert (found[4] > before[4]).all()  # the fourth step of the fade
    assert torch.equal(found[[0, 8]], torch.ones(2, 4))


def test_a_trained_model_brings_its_ranking_along(tmp_path):
    trained = STTSConfig(novelty_power=2.0, score_floor=0.1, relevance_weight=1.0)
    (tmp_path / "config.json").write_text(json.dumps({"stts": trained.to_dict()}))
    asked = as_trained(STTSConfig(prune_ratio=0.8), tmp_path)
    assert (asked.novelty_power, asked.score_floor, asked.prune_ratio) == (2.0, 0.1, 0.8)
    with pytest.raises(ValueError, match=r"novelty_power is 1\.0, but the model .* was trained with 2\.0"):
        as_trained(STTSConfig(novelty_power=1.0), tmp_path)
    older = trained.to_dict()
    del older["novelty_power"], older["score_floor"], older["relevance_weight"]
    assert STTSConfig.from_dict(older) == STTSConfig()  # what earlier versions saved ranks as it did


def test_a_relevant_copy_goes_before_what_is_new_and_without_the_switch_it_stays(monkeypatch):
    scores = torch.full((7, 4), 0.1)
    scores[2], scores[5] = 0.9, 0.9  # the copies are what matters
    monkeypatch.setattr(STTSScorer, "score_windows", lambda *args: scores)
    by_score, _ = choose(a_view())
    by_both, said = choose(a_view(novelty_power=2.0))
    assert by_score[2].all()
    assert not by_both[2].any()
    assert by_both[[1, 3]].sum() == 4
    assert torch.equal(said, scores)  # what the losses see is the score alone
    assert by_both.sum() == by_score.sum()
