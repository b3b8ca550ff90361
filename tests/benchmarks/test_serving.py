"""The benchmark of serving, all but the engine that it starts (tests/serving/test_benchmark.py)."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

BENCHMARKS = ROOT / "benchmarks"


def turn(at_once: int, seconds: float) -> dict[str, float]:
    return {"at_once": at_once, "seconds": seconds, "wall": seconds, "vit": seconds / 2, "llm": seconds / 4}


def test_rows_hold_medians_and_how_many_times_less_they_are(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    serving = importlib.import_module("serving")
    scorer, evs = ("scorer", 0.5), ("evs", 0.5)
    runs = {
        serving.NONE: [
            [turn(1, 8.0), turn(4, 6.0)],
            [turn(1, 9.0), turn(4, 6.0)],
            [turn(1, 7.0), turn(4, 5.0)],
        ],
        evs: [[turn(1, 4.0), turn(4, 4.0)]] * 3,
        scorer: [[turn(1, 2.0), turn(4, 3.0)], [turn(1, 1.0), turn(4, 3.0)], [turn(1, 50.0), turn(4, 3.0)]],
    }
    rows = serving.rows_of(runs, {scorer: 2.5})
    found = {(row["policy"], row["at_once"]): row for row in rows}
    assert len(rows) == 6
    assert found["scorer", 1]["seconds"] == 2.0
    assert found["scorer", 1]["repeats"] == [2.0, 1.0, 50.0]
    assert (found["scorer", 1]["over_none"], found["scorer", 1]["over_evs"]) == (4.0, 2.0)
    assert (found["scorer", 4]["over_none"], found["scorer", 4]["over_evs"]) == (
        2.0,
        pytest.approx(4 / 3, abs=1e-4),
    )
    assert found["scorer", 4]["limit"] == 2.5
    assert found["none", 1]["over_evs"] is None
    args = argparse.Namespace(requests=8, frames=16, new_tokens=16, preset="mid")
    serving.report(rows, args)
    assert "1.33" in capsys.readouterr().out
    path = tmp_path / "serving.json"
    path.write_text(json.dumps({"rows": rows, "machine": {"cpu": "x", "threads": 1}}))
    assert serving.draw(path).stat().st_size > 5000


def test_the_model_that_is_measured_loads_as_a_folder(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    serving = importlib.import_module("serving")
    config = serving.make_model(Path(tmp_path), serving.SIZES["tiny"])
    from stts.chat import load

    _, processor = load(tmp_path)
    assert processor.image_size == 72
    assert 1.0 < serving.limit(config, 16, 0.5, logits=1) < 2.0
