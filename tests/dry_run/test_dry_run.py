"""The training step as on a GPU, on tensors that have shapes and no values: devices, dtypes, waits, kernels, ranks.

Everything runs in one process of its own, since the library that makes a CUDA device must be loaded before torch. A
pass here is no pass on a GPU: no kernel runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stts.pruning.config import POLICIES
from tests.helpers.fake_cuda_library import build
from tests.helpers.hosts import rows
from tests.helpers.long import long
from tests.helpers.paths import ROOT

FSDP = ("video/0.5", "video/0.0", "text", "recomputed")
HOSTS = [row.name for row in rows() if row.name not in ("molmo2", "molmo2_described", "qwen3_vl", "gemma4")]
WAIT = ("smolvlm", "idefics3", "llava_next_video")
"""Whose own code reads values, or sends some to the device while the host waits."""
KINDS = ("video", "two", "beside", "text", "mixed", "one-frame", "packed")
NEVER_WAITS = [
    *(f"batch/{kind}/{ratio}" for kind in KINDS for ratio in (0.5, 0.0)),
    *(f"policy/{policy}" for policy in POLICIES),
    *(f"llm/{llm}{more}" for llm in ("sdpa", "block_sparse") for more in ("", "/recomputed")),
    *(f"qwen/{kind}/{ratio}" for kind in ("video", "two") for ratio in (0.5, 0.0)),
    *(f"host/{host}/{ratio}" for host in HOSTS if host not in WAIT for ratio in (0.5, 0.0)),
    "batch/accumulated",
    "loss/example",
    "cu_seqlens",
    "attention/varlen/bf16",
    "attention/flex/bf16",
    "attention/flex/no",
    *(f"fsdp8/{what}" for what in FSDP),
]
PASSES = [
    *(f"batch/{kind}/{ratio}" for kind in ("image", "image-and-video") for ratio in (0.5, 0.0)),
    *(f"attention/{backend}/{precision}" for backend in ("loop", "bins") for precision in ("bf16", "no")),
    *(f"host/{host}/{ratio}" for host in WAIT for ratio in (0.5, 0.0)),
    *(f"reads/{what}" for what in ("generate/molmo2", "generate/qwen", "evaluate", "resume")),
    "windows",
]
REFUSED = {
    "attention/varlen/no": "attention is 'varlen', whose kernels take bfloat16 and float16",
    "attention/flash/no": "attention is 'flash', whose kernels take bfloat16 and float16",
    "attention/flash/bf16": "neither FlashAttention 2 nor 3 can be used here",
}


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made, why = build(tmp_path_factory.mktemp("fake_cuda"))
    if made is None:
        pytest.skip(why)
    return made


def dry_run(library: Path, folder: Path, *stems: str) -> dict[str, dict[str, Any]]:
    """What became of each case, by name."""
    out, env = folder / "cases.jsonl", os.environ | {"FAKE_CUDA": str(library), "PYTHONPATH": str(ROOT)}
    env["TRANSFORMERS_DISABLE_TORCH_CHECK"] = "1"  # its checks read values
    command = [sys.executable, "-m", "tests.helpers.dry_run", str(out), *stems]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return {found["case"]: found for found in map(json.loads, out.read_text().splitlines())}


@pytest.fixture(scope="session")
def cases(library: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    stems = (
        "batch/",
        "policy/",
        "attention/",
        "llm/",
        "loss/",
        "cu_seqlens",
        "windows",
        "qwen/",
        "host/",
        "reads/",
        "fsdp8/",
    )
    return dry_run(library, tmp_path_factory.mktemp("cases"), *stems)


@pytest.mark.parametrize("name", NEVER_WAITS)
def test_a_step_passes_and_never_waits(cases: dict, name: str) -> None:
    found = cases[name]
    assert found["error"] is None
    assert found["waits"] == []


@pytest.mark.parametrize("name", PASSES)
def test_a_step_passes(cases: dict, name: str) -> None:
    """Images, of which transformers reads the sizes; what reads values by its nature."""
    assert cases[name]["error"] is None


@pytest.mark.parametrize("name", REFUSED)
def test_kernels_that_would_fail_are_refused(cases: dict, name: str) -> None:
    assert REFUSED[name] in cases[name]["error"]


def test_every_case_is_looked_at(cases: dict) -> None:
    assert cases.keys() == {*NEVER_WAITS, *PASSES, *REFUSED}


def test_attention_takes_the_kernels_that_are_meant(cases: dict) -> None:
    four_dense_one_biased = 5  # and varlen, which is not counted
    assert cases["batch/video/0.5"]["kernels"] == {"flash": four_dense_one_biased, "flex": 1}
    assert cases["batch/video/0.0"]["kernels"] == {"flash": 6, "flex": 1}
    assert cases["llm/sdpa"]["kernels"] == {"flash": 5, "efficient": 1}


@long
def test_memory_of_one_gpu_is_what_was_written_down(library: Path, tmp_path: Path) -> None:
    """And what plans are held against."""
    known = json.loads((ROOT / "tests" / "data" / "dry_run_memory.json").read_text())["one_gpu"]
    stems = {f"memory/{row['model']}/{row['prune_ratio']}": row for row in known}
    found = dry_run(library, tmp_path, *stems)
    for stem, row in stems.items():
        assert found[stem]["peak"] / 1e9 == pytest.approx(row["peak_gb"], rel=0.01)
        assert found[f"{stem}/recomputed"]["peak"] / 1e9 == pytest.approx(row["recomputed_gb"], rel=0.01)


@long
def test_sixty_four_ranks_share_a_model(library: Path, tmp_path: Path) -> None:
    found = dry_run(library, tmp_path, "fsdp64/")
    assert {name: case["error"] for name, case in found.items() if case["error"]} == {}
    assert len(found) == len(FSDP)


@long
def test_molmo2_4b_takes_a_step_at_its_true_size(library: Path, tmp_path: Path) -> None:
    """Of 128 frames, half of their windows pruned."""
    (found,) = dry_run(library, tmp_path, "slow/").values()
    assert found["error"] is None
    assert found["waits"] == []
    assert found["kernels"]["flex"] == 36
