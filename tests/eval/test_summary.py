from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from stts.eval.runner import evaluate
from stts.eval.summary import print_results
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
