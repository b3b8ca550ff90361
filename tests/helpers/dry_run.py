"""FAKE_CUDA=library python -m tests.helpers.dry_run OUT STEM...: runs the cases whose names begin with a stem.

Writes a line of JSON a case: its name, the error if any, what it waited for, the kernels of attention it chose, and
where memory was followed the peak in bytes.
"""

from __future__ import annotations

import tests.helpers.fake_cuda as fake  # isort: skip  (before anything imports torch)

import json
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from torch._subclasses.fake_tensor import FakeTensorMode

from tests.helpers.dry_cases import CASES
from tests.helpers.dry_hosts import MEMORY


def run(name: str) -> dict[str, Any]:
    fake.CHOSEN.clear()
    fake.WAITS.found.clear()
    error = None
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), fake.WAITS:
            CASES[name]()
    except Exception as raised:
        ours = [
            f
            for f in traceback.extract_tb(raised.__traceback__)
            if "/stts/" in f.filename or "/transformers/" in f.filename
        ]
        where = [f"{f.filename.rpartition('/site-packages/')[2]}:{f.lineno}" for f in ours[-3:]]
        error = f"{type(raised).__name__}: {str(raised)[:600]} {where}"
    return {
        "case": name,
        "error": error,
        "waits": sorted(set(fake.WAITS.found)),
        "kernels": dict(fake.CHOSEN),
        "peak": MEMORY.peak,
    }


def main() -> None:
    warnings.filterwarnings("ignore")
    with Path(sys.argv[1]).open("a") as out:
        for name in CASES:
            if name.startswith(tuple(sys.argv[2:])):
                print(json.dumps(run(name)), file=out, flush=True)


if __name__ == "__main__":
    main()
