from __future__ import annotations

import dataclasses
import json
from importlib import metadata
from pathlib import Path

import pytest

from stts import STTSConfig, answer
from stts.comparison import demo as demo_module
from stts.comparison.arms import Recipe, compare
from stts.comparison.demo import Policy, filmed_clip, run_demo
from stts.data import read_video
from stts.data.load import DataPaths
from stts.eval.tasks import DataBenchmark
from stts.eval.tasks.data import load_test_rows
from stts.hosts.folders import ModelSpec
from stts.hosts.load import load_model

LR = {"vision": 4e-4, "adapter": 4e-4, "llm": 2e-3, "scorer": 1.6e-3}


def test_a_model_of_another_family_is_compared_and_drawn(tiny_qwen3_vl_folder, clips, tmp_path, monkeypatch):
    monkeypatch.setattr(demo_module, "filmed_clip", lambda: None)
    spec, recipe = ModelSpec(path=str(tiny_qwen3_vl_folder), lr=LR), Recipe(steps=1, batch_size=2, frames=5)
    data, policies = DataPaths(clips / "train.jsonl", clips / "test.jsonl", clips), [Policy("temporal", 0.5)]
    questions = load_test_rows(
        DataBenchmark(
            "own", data={"name": "jsonl", "annotations": str(data.train), "test_annotations": str(data.test)}
        )
    )
    (row,) = run_demo(policies, STTSConfig(), recipe, 0, spec, data, questions[:3], tmp_path)
    assert row["kept"] == pytest.approx(14 / 27)
    assert row["seconds_per_step"] > 0
    assert (tmp_path / "kept_generated.png").stat().st_size > 10_000


@pytest.mark.slow
def test_demo_compares_policies_and_goes_on_where_it_stopped(tiny_folder, clips, tmp_path):
    policies = [Policy("none", 0), Policy("scorer", 0.5)]
    recipe = Recipe(steps=2, batch_size=2, processes=2)
    spec = ModelSpec(path=str(tiny_folder), lr=LR)
    data = DataPaths(clips / "train.jsonl", clips / "test.jsonl", clips)
    names = {"num_train": 6, "num_test": 2, "slots": 5, "questions_per_clip": 3, "seed": 1}
    questions = load_test_rows(
        DataBenchmark("synthetic", data={"name": "synthetic", "folder": str(clips), **names})
    )
    arm = policies[1].arm(STTSConfig(bias_range=0.1), seed=0)
    (pooled,) = compare([arm], recipe, spec, data, questions, tmp_path)  # in a process of its own
    alone = dataclasses.replace(recipe, processes=1)

    def demo(seed: int = 0) -> list[dict]:
        return run_demo(policies, STTSConfig(bias_range=0.1), alone, seed, spec, data, questions, tmp_path)

    rows = demo()
    assert rows[1]["accuracy"] == pooled["accuracy"]
    assert rows == json.loads((tmp_path / "results.json").read_text())
    assert [(row["policy"], row["prune_ratio"]) for row in rows] == [("none", 0), ("scorer", 0.5)]
    assert [row["kept"] for row in rows] == [1, pytest.approx(0.5, abs=0.02)]
    assert rows[0]["evidence_recall"] == 1
    assert all(row["seconds_per_step"] > 0 and 0 <= row["accuracy"] <= 1 for row in rows)
    assert (tmp_path / "kept_generated.png").exists()
    assert (tmp_path / "scorer-0.5" / "curves.png").exists()
    assert "starting at step 0" in (tmp_path / "scorer-0.5" / "log.txt").read_text()
    (tmp_path / "scorer-0.5" / "arm.json").unlink()  # as if stopped before the last word
    assert demo() == rows
    assert (tmp_path / "scorer-0.5" / "log.txt").read_text().count("finished already") == 1
    with pytest.raises(ValueError, match="holds results of other settings"):
        demo(seed=1)


def test_policies_that_make_no_sense_are_named():
    with pytest.raises(ValueError, match=r"arm none has prune_ratio 0\.5"):
        Policy("none", 0.5)
    with pytest.raises(ValueError, match="arm scorer has prune_ratio 0"):
        Policy("scorer", 0)
    with pytest.raises(ValueError, match="policy is 'magic'"):
        Policy("magic", 0.5).arm(STTSConfig(), 0)
    with pytest.raises(ValueError, match="steps is -1"):
        Recipe(steps=-1)
    same = [Policy("random", 0.5).arm(STTSConfig(), seed) for seed in (0, 1)]
    with pytest.raises(ValueError, match=r"random-0\.5, random-0\.5: each name once"):
        next(compare(same, Recipe(), ModelSpec(name="tiny"), None, (), Path()))


def test_filmed_clip_is_optional(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(demo_module.metadata, "files", missing)
    assert filmed_clip() is None


def test_answer_continues_the_prompt(tiny_folder, clips):
    model, processor = load_model(ModelSpec(path=str(tiny_folder)), STTSConfig(prune_ratio=0.5))
    clip = read_video(next((clips / "videos").glob("*.mp4")), frames=8)
    reply = answer(model, processor, "What colour was it?", clip, ("red", "blue"), max_new_tokens=3)
    assert isinstance(reply, str)
    keep = model.last_keep_windows
    assert (~keep).sum() == keep.numel() // 2
    answer(model, processor, "Anything?", max_new_tokens=1)
    assert model.last_keep_windows is None
