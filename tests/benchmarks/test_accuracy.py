"""The accuracy benchmark: its intervals against a slow bootstrap, and a small grid run through to the figure."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from accuracy import arms_of, chosen, main
from intervals import mean_and_interval
from relevance_targets import TimesNovelty, by_rank, gradient_alone
from safetensors.torch import load_file

from stts.pruning.config import STTSConfig
from stts.pruning.policies import View
from stts.pruning.relevance import Windows


def test_mean_counts_every_known_question_alike():
    values = np.array([[1, 0, np.nan, 1], [1, 1, 0, np.nan]])
    mean, low, high = mean_and_interval(values, ["a", "a", "b", "c"])
    assert mean == pytest.approx(4 / 6)
    assert low <= mean <= high


def test_interval_is_that_of_drawing_seeds_and_clips():
    rng = np.random.default_rng(0)
    clips = np.repeat([f"clip{i}" for i in range(12)], 3)
    values = (rng.random((3, 36)) < np.repeat(rng.random(12), 3)).astype(float)
    _, low, high = mean_and_interval(values, clips)
    means = []
    for _ in range(3000):
        seeds = rng.integers(0, 3, 3)
        drawn = [f"clip{i}" for i in rng.integers(0, 12, 12)]
        columns = np.concatenate([np.flatnonzero(clips == clip) for clip in drawn])
        means.append(values[seeds][:, columns].mean())
    assert (low, high) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.02)


def test_no_doubt_where_all_agree():
    assert mean_and_interval(np.ones((2, 5)), list("abcde")) == (1, 1, 1)


def test_what_prunes_nothing_runs_once():
    policies = {"none": {"policy": "none"}, "random": {"policy": "random"}}
    arms = list(arms_of(chosen(policies, ["none", "random"]), [0.5, 0.8], seed=3))
    named = [
        ("none", 0.0, "none-0-seed3"),
        ("random", 0.5, "random-0.5-seed3"),
        ("random", 0.8, "random-0.8-seed3"),
    ]
    assert [(policy, ratio, arm.name) for policy, ratio, arm in arms] == named
    assert {arm.seed for *_, arm in arms} == {3}
    assert [arm.stts.prune_ratio for *_, arm in arms] == [0, 0.5, 0.8]
    with pytest.raises(ValueError, match="arms has 'magic', must be of none, random"):
        chosen(policies, ["magic"])


@pytest.mark.slow
def test_a_small_grid(tiny_folder, tmp_path, monkeypatch):
    """The base as it is, without a step: an oracle keeps all evidence, random does not."""
    data = {
        "name": "synthetic",
        "folder": str(tmp_path / "clips"),
        "num_train": 1,
        "seed": 5,
        "cells": ["plain", "fading"],
    }
    config = {
        "model": {"name": "tiny", "path": str(tiny_folder), "lr": {}},
        "base": {
            "steps": 1,
            "folder": str(tmp_path / "base"),
            "data": {
                "folder": str(tmp_path / "base" / "clips"),
                "cells": ["decoys", "passers"],
                "num_train": 2,
            },
        },
        "leader": "oracle",
        "data": data | {"num_test": 0},
        "test": {"num_train": 0, "num_test": 6, "seed": 6, "folder": str(tmp_path / "test")},
        "policies": {
            "none": {"policy": "none"},
            "random": {"policy": "random"},
            "oracle": {"policy": "given"},
        },
        "arms": ["none", "random", "oracle"],
        "ratios": [0.8],
        "seeds": [0, 1],
        "steps": 0,
        "ramp_steps": 0,
        "batch_size": 2,
        "frames": 32,
        "processes": 1,
        "output_dir": str(tmp_path / "out"),
        "results": str(tmp_path / "out" / "accuracy.json"),
    }
    main(config)
    report = json.loads((tmp_path / "out" / "accuracy.json").read_text())
    rows = {(row["policy"], row["cell"]): row for row in report["rows"]}
    assert rows.keys() == {(p, c) for p in ("none", "random", "oracle") for c in ("all", "plain", "fading")}
    assert all(row["seeds"] == 2 and len(row["accuracy_by_seed"]) == 2 for row in rows.values())
    assert rows["none", "all"]["questions"] == 24
    assert rows["oracle", "all"]["evidence_recall"] == 1
    assert rows["random", "plain"]["evidence_recall"] < 0.5
    leads = {(gap["rival"], gap["cell"]): gap["difference"] for gap in report["differences"]}
    assert leads.keys() == {
        (rival, cell) for rival in ("none", "random") for cell in ("all", "plain", "fading")
    }
    assert leads["random", "all"] == pytest.approx(
        rows["oracle", "all"]["accuracy"] - rows["random", "all"]["accuracy"]
    )
    assert not any("scorer" in name for name in load_file(tmp_path / "base" / "plain" / "model.safetensors"))
    assert report["provenance"].keys() >= {"git", "versions"}
    assert (tmp_path / "out" / "accuracy.png").stat().st_size > 10_000
    finished = (tmp_path / "out" / "random-0.8-seed0" / "arm.json", tmp_path / "base" / "base.json")
    before = [path.stat().st_mtime_ns for path in finished]
    monkeypatch.setattr("accuracy.draw", lambda *args: None)  # as before
    main(config)  # finished runs are found again
    assert [path.stat().st_mtime_ns for path in finished] == before
    config["base"]["steps"] = 2
    with pytest.raises(ValueError, match="holds a base of other settings"):
        main(config)


def test_other_targets_are_what_they_say():
    windows = Windows([(2, 4), (3, 4)], torch.ones(20, dtype=torch.bool), torch.arange(20))
    windows.keep[[5, 18]] = False
    gradients, norms = torch.rand(20), torch.rand(20)
    gradients[~windows.keep] = 0
    found, _ = gradient_alone(gradients, norms, windows)
    torch.testing.assert_close(found[:8], gradients[:8] / gradients[:8].max())
    found, known = by_rank(gradients, norms, windows)
    kept = windows.keep[8:].nonzero().flatten() + 8
    order = kept[(gradients * norms)[kept].argsort()]
    torch.testing.assert_close(found[order], torch.linspace(0, 1, 11))
    assert known.nonzero().flatten().tolist() == [4, 6, 7, 12, 13, 14, 15, 16, 17, 19]


def test_a_target_of_relevance_times_novelty():
    """Two frames of two windows, of which the second's first one is a copy."""
    tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [1.0, 0.0]]])
    scores, rule = torch.rand(2, 2), TimesNovelty()
    assert rule.ranking(scores, View(tokens, [2], (1, 2), 1, STTSConfig())) is scores
    windows = Windows([(2, 2)], torch.ones(4, dtype=torch.bool), torch.arange(4))
    found, known = rule.targets(torch.tensor([0.0, 1.0, 2.0, 4.0]), torch.ones(4), windows)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.25, 0.0, 1.0]))
    assert known.tolist() == [False, False, True, True]
