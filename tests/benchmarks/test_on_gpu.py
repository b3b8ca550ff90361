"""The one script for the day a GPU is there: its order and limits; and its parts, rehearsed on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stts.plan.gpus import read_gpus
from tests.helpers.long import long
from tests.helpers.paths import ROOT

PARTS = (
    "waits",
    "kernels",
    "train",
    "rates",
    "prefill",
    "recomputed",
    "breakdown",
    "same-kernels",
    "compiled",
)


def run(folder: Path, python: str, *arguments: str) -> tuple[int, dict[str, str]]:
    """Its exit status, and what summary.txt says of each part."""
    command = ["bash", str(ROOT / "benchmarks/on_gpu.sh"), "--output", str(folder), *arguments]
    done = subprocess.run(command, env=os.environ | {"PYTHON": python}, capture_output=True, text=True)
    lines = (folder / "summary.txt").read_text().splitlines()
    return done.returncode, dict(line.split(": ", 1) for line in lines)


def in_place_of_python(folder: Path, body: str) -> str:
    script = folder / "python"
    script.write_text(f"#!/usr/bin/env bash\n{body}\n")
    script.chmod(0o755)
    return str(script)


def test_parts_come_in_order_and_a_failure_stops_none_of_those_behind(tmp_path: Path) -> None:
    python = in_place_of_python(tmp_path, 'echo "$@"; [[ "$*" != *prefill* ]]')
    status, said = run(tmp_path, python)
    assert status == 1
    assert tuple(said) == PARTS
    assert said["prefill"].startswith("failed with status 1, see prefill.log")
    assert all(text.startswith("passed") for name, text in said.items() if name != "prefill")
    assert "--preset molmo2_4b --mode train --frames 64 128" in (tmp_path / "train.log").read_text()


def test_what_takes_too_long_is_stopped_and_loses_nothing_but_itself(tmp_path: Path) -> None:
    python = in_place_of_python(tmp_path, 'echo begun; [[ "$*" == *test_no_host* ]] || sleep 60')
    status, said = run(tmp_path, python, "--budget", "2")
    assert status == 0
    assert tuple(said) == PARTS
    assert said["waits"].startswith("passed")
    assert said["kernels"].startswith("stopped after its")
    assert {said[name] for name in PARTS[2:]} == {"no time left"}
    assert (tmp_path / "kernels.log").read_text() == "begun\n"


def test_rates_of_a_measured_run_are_what_a_plan_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import rates

    rows = [{"variant": way, "frames": 64, "seconds": s} for way, s in (("unpruned", 1.0), ("pruned", 0.5))]
    rows.append({"variant": "unpruned", "frames": 128, "peak_bytes": "out of memory"})
    machine = {"cpu": "some", "gpu": "NVIDIA H200", "gpu_memory": 150_000_000_000}
    results = {"settings": {"preset": "molmo2_4b"}, "machine": machine, "rows": rows}
    (tmp_path / "speed-molmo2_4b-train-cuda.json").write_text(json.dumps(results))
    gpus, measured = read_gpus(str(rates.main([str(tmp_path)])))
    assert measured
    assert gpus["H200"].gigabytes == 150
    assert 200 < gpus["H200"].teraflops < 400  # a step of 64 frames is about 300 TFLOP
    (tmp_path / "speed-molmo2_4b-train-cuda.json").unlink()
    with pytest.raises(SystemExit, match=r"no results of benchmarks/speed\.py"):
        rates.main([str(tmp_path)])


@long
def test_all_of_it_can_be_rehearsed(tmp_path: Path) -> None:
    status, said = run(tmp_path, sys.executable, "--rehearse")
    assert all(text.startswith("passed") for text in said.values()), said
    assert status == 0
    names = {path.name for path in tmp_path.glob("*.json")}
    for mode in ("train", "prefill", "recomputed", "compiled", "vit"):
        assert f"speed-tiny-{mode}-cpu.json" in names
    assert {"rates.json", "breakdown-tiny-cpu.json"} <= names
