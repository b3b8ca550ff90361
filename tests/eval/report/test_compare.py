from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from stts.eval.records import write_json
from stts.eval.report.compare import compare_runs, print_compared, print_comparison
from stts.eval.statistics import difference_interval, mcnemar_exact
from stts.eval.summary import duration_of, speed_of, summarize

SPANS = (10.0, 15.0, 40.0, 100.0, 4000.0)


def make_records(right: list[bool], **changes: Any) -> list[dict[str, Any]]:
    """Two questions a video; each third one of kind "a"."""
    return [
        {
            "id": f"q{i}",
            "category": "a" if i % 3 == 0 else "b",
            "groups": {"kind": ["all of them"], "tag": ["even", "odd"][i % 2 :]},
            "video": f"v{i // 2}.mp4",
            "start": None,
            "end": None,
            "question": "Which?",
            "options": ["x", "y"],
            "answer": "A",
            "predicted": "A" if correct else (None if i == 7 else "B"),
            "correct": correct,
            "span": SPANS[i // 2 % 5],
            "frames": 8,
            "kept": 0.5,
            "evidence_recall": None,
            "error": None,
            "seconds": 0.5,
        }
        | changes
        for i, correct in enumerate(right)
    ]


def make_run(folder: Path, records: list[dict[str, Any]], **settings: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "predictions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    settings = {"benchmark": "own", "policy": "scorer", "prune_ratio": 0.5, "frames": 8} | settings
    write_json(folder / "results.json", summarize(records, settings))
    return folder


@pytest.fixture
def answers() -> tuple[list[bool], list[bool]]:
    rng = np.random.default_rng(0)
    first = rng.random(60) < 0.5
    second = np.where(rng.random(60) < 0.3, rng.random(60) < 0.9, first)
    first[7] = second[7] = False
    return first.tolist(), second.tolist()


def test_differences_are_second_minus_first(tmp_path: Path, answers: tuple[list[bool], list[bool]]) -> None:
    first, second = answers
    a = make_run(tmp_path / "a", make_records(first))
    b = make_run(tmp_path / "b", make_records(second)[::-1], policy="random")  # in another order
    found = compare_runs(a, b)
    only_first = sum(one and not other for one, other in zip(first, second, strict=True))
    only_second = sum(other and not one for one, other in zip(first, second, strict=True))
    assert only_second > only_first > 0
    assert (found["n"], found["only_first"], found["only_second"]) == (60, only_first, only_second)
    assert found["accuracy"] == [pytest.approx(np.mean(first)), pytest.approx(np.mean(second))]
    assert found["difference"] == pytest.approx((only_second - only_first) / 60)
    assert found["p_value"] == mcnemar_exact(only_first, only_second)
    change = np.subtract(second, first, dtype=float)
    order = sorted(range(60), key=str)  # that of the ids
    interval = difference_interval(change[order], [i // 2 for i in order])
    assert found["interval"] == pytest.approx(list(interval), abs=1e-6)
    of_a = np.arange(60) % 3 == 0
    assert found["by_group"]["category"]["a"]["difference"] == pytest.approx(change[of_a].mean())
    assert found["by_group"]["tag"]["even"]["n"] == 30
    assert found["by_group"]["tag"]["odd"]["n"] == 60
    assert found["unparsed"] == [1, 1]
    assert found["settings"] == {"policy": ["scorer", "random"]}
    turned = compare_runs(b, a)
    assert turned["difference"] == pytest.approx(-found["difference"])
    assert turned["p_value"] == found["p_value"]


def test_a_run_against_itself(tmp_path: Path, answers: tuple[list[bool], list[bool]]) -> None:
    a = make_run(tmp_path / "a", make_records(answers[0]))
    found = compare_runs(a, a)
    assert (found["difference"], found["p_value"]) == (0, 1)
    low, high = found["interval"]
    assert -low == high > 0.05  # 30 videos on which they agree do not say that they always would


def test_pairing_is_surer_than_two_intervals(tmp_path: Path) -> None:
    """Two runs that differ on 8 of 400 questions, on 8 videos, all for the better, at an accuracy of a half."""
    first = (np.random.default_rng(1).random(400) < 0.5).tolist()
    second = list(first)
    for place in [i for i, right in enumerate(first) if not right][:80:10]:
        second[place] = True
    found = compare_runs(
        make_run(tmp_path / "a", make_records(first)), make_run(tmp_path / "b", make_records(second))
    )
    assert found["interval"][0] > 0
    assert found["p_value"] == pytest.approx(2 / 2**8)
    whole = json.loads((tmp_path / "a/results.json").read_text())["interval"]
    assert whole[0] < np.mean(second) < whole[1]


def test_it_is_shown(tmp_path: Path, answers: tuple[list[bool], list[bool]]) -> None:
    a = make_run(tmp_path / "a", make_records(answers[0]))
    b = make_run(tmp_path / "b", make_records(answers[1]), prune_ratio=0.8)
    found = compare_runs(a, b)
    console = Console(record=True, width=200, file=open(os.devnull, "w"))  # noqa: SIM115
    print_comparison(found, console)
    text = console.export_text()
    assert f"first: {a}" in text
    assert "prune_ratio: 0.5 and 0.8" in text
    assert f"McNemar's exact test p = {found['p_value']:.3g}" in text
    rows = [line.replace("│", " ").split() for line in text.splitlines()]
    one, other = (f"{100 * share:.1f}" for share in found["accuracy"])
    assert ["all", "60", one, "%", other, "%", f"{100 * found['difference']:+.1f}"] in [
        row[:7] for row in rows
    ]
    assert any(row[:2] == ["tag:", "odd"] for row in rows)
    assert not any("kind:" in row for row in rows), "a kind of one label says nothing"


def test_what_cannot_be_compared_is_named(tmp_path: Path, answers: tuple[list[bool], list[bool]]) -> None:
    records = make_records(answers[0])
    a = make_run(tmp_path / "a", records)
    with pytest.raises(ValueError, match=r"compare is 'a', must be two folders"):
        print_compared("a")
    with pytest.raises(ValueError, match=r"compare is \['a'\], must be two folders"):
        print_compared(["a"])
    with pytest.raises(ValueError, match="nowhere holds no finished evaluation"):
        compare_runs(a, tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"own, .* about other: must be the same"):
        compare_runs(a, make_run(tmp_path / "other", records, benchmark="other"))
    with pytest.raises(
        ValueError, match=r"2 questions were asked in one run only, such as 'q58' in .*a: must"
    ):
        compare_runs(a, make_run(tmp_path / "short", records[:-2]))
    edited = make_records(answers[0], options=["x", "z"])
    with pytest.raises(ValueError, match=r"question 'q0' has another options in .*edited: the runs read"):
        compare_runs(a, make_run(tmp_path / "edited", edited))
    lost = make_run(tmp_path / "lost", records)
    (lost / "predictions.jsonl").write_text(json.dumps(records[0]) + "\n")
    with pytest.raises(ValueError, match=r"lost has 1 predictions, results\.json is about 60"):
        compare_runs(a, lost)
    (lost / "results.json").write_text('{"benchmark": "own"')
    with pytest.raises(ValueError, match=r"lost is not an evaluation that can be read \(JSONDecodeError"):
        compare_runs(a, lost)
    (tmp_path / "group").mkdir()
    write_json(tmp_path / "group/results.json", {"benchmark": "all", "accuracy": {}})
    with pytest.raises(ValueError, match="is a group of benchmarks"):
        compare_runs(a, tmp_path / "group")


def test_results_by_duration(answers: tuple[list[bool], list[bool]]) -> None:
    records = make_records(answers[0])
    records[-1] |= {"span": None, "predicted": None, "correct": False, "error": "v29.mp4: is empty"}
    results = summarize(records, {"benchmark": "own"})
    labels = ["to 15 s", "15 s to 1 min", "1 to 3 min", "over 30 min", "unknown"]
    assert list(results["by_duration"]) == labels
    assert [results["by_duration"][label]["n"] for label in labels] == [24, 12, 12, 11, 1]
    assert (results["unparsed"], results["bad_videos"], results["videos"]) == (1, 1, 30)
    assert results["accuracy"] == np.mean([record["correct"] for record in records])
    seconds = [0.0, 15.0, 15.1, 60.0, 180.0, 600.0, 1800.0, 1800.1]
    found = [duration_of({"span": span}) for span in seconds]
    assert found == [
        *(
            "to 15 s",
            "to 15 s",
            "15 s to 1 min",
            "15 s to 1 min",
            "1 to 3 min",
            "3 to 10 min",
            "10 to 30 min",
        ),
        "over 30 min",
    ]


def test_speed_counts_the_frames_of_a_clip_once(answers: tuple[list[bool], list[bool]]) -> None:
    speed = speed_of(make_records(answers[0]))  # 60 questions of half a second, 30 clips of 8 frames
    assert speed == {"seconds": 30.0, "questions_per_second": 2.0, "frames_per_second": 8.0}
    assert speed_of(make_records([False], seconds=0.0))["questions_per_second"] == 0
