from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from stts.eval.runner import evaluate
from stts.eval.summary import group_table, print_results
from tests.helpers.painted_letters import (
    CONFIG,
    Painted,
    Setting,
    counts,
    questions_about,
)


def test_the_report_shows_every_number(setting: Setting, tmp_path: Path) -> None:
    questions = [
        replace(question, groups={"kind": ("still",) if i < 4 else ("still", "long")})
        for i, question in enumerate(questions_about(setting.videos))
    ]
    results = evaluate(Painted(setting.processor), setting.processor, questions, CONFIG, tmp_path)
    assert counts(results["by_group"]["kind"]["long"]) == (pytest.approx(4 / 6), 6, 0)
    console = Console(record=True, width=100, file=open(os.devnull, "w"))  # noqa: SIM115
    print_results(results, console)
    rows = [line.replace("│", " ").split() for line in console.export_text().splitlines()]
    low, high = (f"{100 * end:.1f}" for end in results["interval"])
    assert ["all", "70.0", "%", low, "-", high, "10", "0"] in rows
    rows = [row[:3] + row[6:] if "-" in row else row for row in rows]
    assert ["even", "60.0", "%", "5", "0"] in rows
    assert ["kind:", "long", "66.7", "%", "10", "0"] not in rows
    assert ["policy", "scorer,", "prune_ratio", "0.5,", "frames", "16;", "kept"] in [row[:7] for row in rows]


def test_bad_questions_are_counted_apart_from_bad_videos() -> None:
    counts = {"accuracy": 0.5, "interval": [0.2, 0.8], "n": 9, "unparsed": 1}
    results = {
        "a": counts | {"bad_videos": 2, "bad_questions": 3},
        "b": counts | {"bad_videos": 0, "bad_questions": 0},
    }
    results["videomme_subtitle"] = results["a"] | {"n": 12345}
    console = Console(record=True, width=80, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(group_table("own", results, {}))
    rows = [line.replace("│", " ").split() for line in console.export_text().splitlines()]
    assert [row[-4:] for row in rows if row[:1] in (["a"], ["b"])] == [
        ["9", "1", "2", "3"],
        ["9", "1", "0", "0"],
    ]
    assert ["videomme_subtitle", "50.0", "%", "20.0", "-", "80.0", "12345", "1", "2", "3"] in rows
