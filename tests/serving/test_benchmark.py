"""The engine that the benchmark of serving starts, at its smallest size."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("vllm", reason="needs vLLM, in a virtual environment of its own: make test-serving")

from tests.helpers.paths import ROOT
from tests.helpers.served import make_served


def test_an_engine_tells_the_seconds_of_its_parts(tmp_path):
    folder = make_served(tmp_path / "model")
    command = [sys.executable, str(ROOT / "benchmarks" / "serving_engine.py"), str(folder), "scorer", "0.5"]
    options = ["--frames", "4", "--requests", "2", "--at-once", "1", "2", "--new-tokens", "3"]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads(done.stdout.strip().splitlines()[-1])["rows"]
    assert [row["at_once"] for row in rows] == [1, 2]
    assert all(0 < row["vit"] + row["llm"] < row["seconds"] for row in rows)
