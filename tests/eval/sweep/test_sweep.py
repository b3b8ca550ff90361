from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import image
from rich.console import Console

from stts.chat import load
from stts.data.video.config import VideoConfig
from stts.eval.statistics import share_interval
from stts.eval.sweep.config import SweepConfig, cell_config
from stts.eval.sweep.cost import measure_cost
from stts.eval.sweep.figure import draw_sweep
from stts.eval.sweep.pareto import COSTS, Point, find_trades, frontier
from stts.eval.sweep.results import print_sweep, summarize_sweep, with_unit
from stts.eval.tasks.question import Question
from stts.hosts.flops import multiply_adds
from tests.helpers.scripts import run_script, run_script_in_two_processes


def point(accuracy=0.5, seconds=1.0, tokens=100.0, frames=32, ratio=0.5, policy="scorer", n=20) -> Point:
    """A cell that answers the first of n questions, each about a video of its own."""
    correct = tuple(i < round(accuracy * n) for i in range(n))
    return Point(policy, ratio, frames, correct, tuple(f"v{i}" for i in range(n)), seconds, tokens)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 6)), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_frontier_is_what_no_other_point_beats(cells):
    points = [point(right / 20, seconds=float(cost)) for right, cost in cells]

    def beaten(one: Point) -> bool:
        return any(
            (other.accuracy >= one.accuracy and other.seconds < one.seconds)
            or (other.accuracy > one.accuracy and other.seconds <= one.seconds)
            for other in points
        )

    best = frontier(points, lambda one: one.seconds)
    expected = {(one.seconds, one.accuracy) for one in points if not beaten(one)}
    assert [(one.seconds, one.accuracy) for one in best] == sorted(expected)


def test_trades_are_more_frames_pruned_harder_for_no_more():
    few = point(0.5, seconds=1.0, tokens=100, frames=32, ratio=0.0, policy="none")
    more = point(0.9, seconds=1.04, tokens=100, frames=64, ratio=0.5)
    cells = [
        few,
        more,
        point(0.95, seconds=1.06, tokens=200, frames=128, ratio=0.5),  # costs too much
        point(0.4, seconds=0.5, tokens=50, frames=64, ratio=0.8),  # answers worse
        point(0.9, seconds=0.9, tokens=90, frames=32, ratio=0.8),  # as many frames
        point(0.9, seconds=0.9, tokens=90, frames=64, ratio=0.0, policy="none"),  # pruned no harder
    ]
    (trade,) = find_trades(cells, "seconds", tolerance=0.05)
    assert (trade.more, trade.fewer) == (more, few)
    assert trade.gain == pytest.approx(0.4)
    assert trade.cost_ratio == pytest.approx(1.04)
    assert trade.clear
    assert str(trade).startswith("64 frames, scorer 50% beats 32 frames, whole: +40.0 points [")
    assert find_trades(cells, "seconds", tolerance=0.0) == []
    assert [found.more for found in find_trades(cells, "visual_tokens", 0.0)] == [more]


def test_trades_are_within_a_policy_and_told_apart_from_chance():
    few = point(0.5, frames=32, ratio=0.3, policy="random")
    assert find_trades([few, point(0.9, frames=64)], "seconds") == []
    close = point(0.55, frames=64, policy="random")
    (trade,) = find_trades([few, close], "seconds")
    assert not trade.clear  # one question of twenty
    assert trade.interval[0] <= 0 < trade.interval[1]


def test_intervals_are_over_videos():
    """All questions about a video stand or fall together: as unsure as two questions."""
    alone = point(0.5)
    shared = dataclasses.replace(alone, clusters=("a",) * 10 + ("b",) * 10)
    assert shared.interval == pytest.approx(share_interval([1, 0], "ab"), abs=1e-6)
    assert 0.2 < alone.interval[0] < 0.5 < alone.interval[1] < 0.8


def test_grid_asks_whole_videos_once_a_frame_count():
    sweep = SweepConfig((16, 32), (0, 0.5), ("scorer", "random"))
    assert list(sweep.cells()) == [
        (16, 0, "none"),
        (16, 0.5, "scorer"),
        (16, 0.5, "random"),
        (32, 0, "none"),
        (32, 0.5, "scorer"),
        (32, 0.5, "random"),
    ]
    folders = [cell_config({"output_dir": "out", "seed": 3}, *cell)["output_dir"] for cell in sweep.cells()]
    assert folders[:2] == ["out/f16-none-0", "out/f16-scorer-0.5"]
    assert len(set(folders)) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": ()}, r"frames is \[\], must be a list without repetitions"),
        ({"frames": (8, 8)}, "frames is"),
        ({"frames": (8, 0)}, "frames is 0"),
        ({"frames": (8.5,)}, "frames is 8.5"),
        ({"prune_ratio": (0.5, 1.0)}, "prune_ratio is 1.0"),
        ({"policy": ("best",)}, "policy is 'best'"),
        ({"cost_videos": 0}, "sweep.cost_videos is 0"),
        ({"tolerance": -0.1}, "sweep.tolerance is -0.1"),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        SweepConfig(**({"frames": (8,), "prune_ratio": (0, 0.5)} | changes))


def test_summary_table_and_picture(tmp_path):
    points = [
        point(0.5, 1.0, 100, 32, 0.0, "none"),
        point(0.8, 1.0, 100, 64, 0.5),
        point(0.7, 2.0, 300, 64, 0.0, "none"),
    ]
    costs = [{"seconds": p.seconds, "visual_tokens": p.visual_tokens, "multiply_adds": 2e9} for p in points]
    trades = [trade for by in COSTS for trade in find_trades(points, by)]
    summary = summarize_sweep(points, costs, trades, {"benchmark": "b", "model": "m"})
    assert json.loads(json.dumps(summary)) == summary
    assert summary["frontier"] == {by: ["64 frames, scorer 50%"] for by in COSTS}
    assert [(trade["by"], trade["fewer"]) for trade in summary["trades"]] == [
        ("seconds", "32 frames, whole"),
        ("visual_tokens", "32 frames, whole"),
    ]
    with open(tmp_path / "table.txt", "w") as file:
        print_sweep(summary, trades, Console(file=file, width=100))
    text = (tmp_path / "table.txt").read_text()
    assert text.count("64 frames, scorer 50% beats 32 frames, whole") == 2
    (starred,) = [line for line in text.splitlines() if "80.0 [" in line]
    assert starred.count("*") == 2
    picture = image.imread(draw_sweep(points, tmp_path / "sweep.png", "b, m"))
    assert picture.shape[1] > 1000
    assert picture[..., :3].min() < 0.5


def test_units():
    assert [with_unit(n) for n in (12, 1.5e6, 2e9, 3.25e12)] == ["12", "1.5 M", "2 G", "3.25 T"]


def test_cost_counts_the_windows_that_reach_the_llm(tiny_folder, clips):
    model, processor = load(str(tiny_folder), prune_ratio=0.5, policy="scorer")
    videos = sorted((clips / "videos").glob("*.mp4"))
    questions = [Question(f"q{i}", videos[i // 2], "What?", ("a", "b"), 0) for i in range(6)]
    video = VideoConfig(4)
    cost = measure_cost(model, processor, questions, video, videos=2, repeats=1)
    assert cost.frames == 4
    assert cost.visual_tokens == 4 * 9 - math.floor(4 * 9 * 0.5)
    assert cost.seconds > 0
    turn = {"role": "user", "content": questions[0].text([0.0, 0.5, 1.0, 1.5])}
    text = len(processor([turn], add_generation_prompt=True)["input_ids"])
    least = multiply_adds(model.config, 4, 0.5, text_tokens=text, text_per_frame=0, logits=1).total
    most = multiply_adds(model.config, 4, 0.5, text_tokens=text + 60, text_per_frame=0, logits=1).total
    assert least < cost.multiply_adds < most
    model.stts = model.stts.replace(prune_ratio=0.0)
    whole = measure_cost(model, processor, questions, video, videos=1, repeats=1)
    assert whole.visual_tokens == 36


@pytest.mark.slow
def test_a_sweep_is_evaluated_measured_drawn_and_resumed(monkeypatch, tmp_path, capsys, tiny_folder, clips):
    arguments = [
        f"model.path={tiny_folder}",
        "data=jsonl",
        f"data.annotations={clips / 'train.jsonl'}",
        f"data.test_annotations={clips / 'test.jsonl'}",
        "frames=[2,4]",
        "prune_ratio=[0,0.5]",
        "policy=[temporal]",
        "eval.limit=5",  # about both clips, so that two processes have something to do
        "eval.batch_size=1",
        "sweep.cost_videos=1",
        "sweep.cost_repeats=1",
    ]
    assert run_script(monkeypatch, tmp_path, "sweep", *arguments) == 0
    folder = next(tmp_path.glob("outputs/sweep/*/tiny-seed0-*"))
    summary = json.loads((folder / "sweep.json").read_text())
    assert [(cell["frames"], cell["policy"]) for cell in summary["cells"]] == [
        (2, "none"),
        (2, "temporal"),
        (4, "none"),
        (4, "temporal"),
    ]
    for cell in summary["cells"]:
        name = f"f{cell['frames']}-{cell['policy']}-{cell['prune_ratio']:g}"
        lines = (folder / name / "predictions.jsonl").read_text().splitlines()
        assert cell["accuracy"] == np.mean([json.loads(line)["correct"] for line in lines])
        assert cell["cost"]["visual_tokens"] == cell["frames"] * 9 - int(
            cell["frames"] * 9 * cell["prune_ratio"]
        )
    assert (folder / "sweep.png").exists()
    assert "nothing answers better" in capsys.readouterr().out
    (folder / "f4-temporal-0.5" / "results.json").unlink()
    assert run_script(monkeypatch, tmp_path, "sweep", *arguments) == 0
    assert (
        json.loads((folder / "sweep.json").read_text()) == summary
    )  # seconds, too: nothing is measured again
    cost = folder / "f2-none-0" / "cost.json"
    before = cost.read_text()
    assert run_script(monkeypatch, tmp_path, "sweep", *arguments, "sweep.cost_repeats=2") == 0
    assert cost.read_text() != before
    said = run_script_in_two_processes(tmp_path, 0, "sweep", *arguments, "output_dir=pair")
    assert said.count("2 processes") == said.count("written to pair/sweep.json") == 1
    assert timeless(json.loads((tmp_path / "pair/sweep.json").read_text())) == timeless(summary)
    for results in folder.glob("*/results.json"):
        assert (tmp_path / "pair" / results.relative_to(folder)).read_bytes() == results.read_bytes()


def timeless(summary: dict) -> dict:
    """What a sweep found, apart from what the clock had a part in."""
    cells = [cell | {"cost": cell["cost"] | {"seconds": 0, "measured": 0}} for cell in summary["cells"]]
    trades = [trade for trade in summary["trades"] if trade["by"] != "seconds"]
    frontier = summary["frontier"]["visual_tokens"]
    return summary | {"cells": cells, "trades": trades, "frontier": frontier}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("prune_ratio=[0.5,2]", "prune_ratio is 2"),
        ("frames=[many]", "frames is 'many'"),
        ("frames=few", "frames is 'few', must be a whole number"),
        ("benchmark=short", "short"),
        ("benchmark=videomme", "needs files that are not there"),
        ("checkpoint=nowhere", "checkpoint is 'nowhere'"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(monkeypatch, tmp_path, capsys, argument, message):
    assert run_script(monkeypatch, tmp_path, "sweep", argument) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert not (tmp_path / "outputs" / "sweep").exists()
