"""python benchmarks/rates.py FOLDER: arithmetic a second, as speed.py measured it there, for scripts/plan.py rates=.

Of an unpruned training step, memory's traffic included: so that of the file is told as too fast to matter.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from presets import ANSWER_TOKENS, PRESETS, TEXT_PER_FRAME, TEXT_TOKENS, preset_config

from stts import STTSConfig
from stts.hosts.flops import multiply_adds
from stts.plan.gpus import GPUS

NO_TRAFFIC = 1e6
"""TB/s."""


def main(arguments: list[str] | None = None) -> Path:
    folder = Path((sys.argv[1:] if arguments is None else arguments)[0])
    found = {}
    for path in sorted(folder.glob("speed-*-train-*.json")):
        results = json.loads(path.read_text())
        if results["settings"]["preset"] in PRESETS and (rates := rates_of(results)):
            found[card(results["machine"])] = rates
    if not found:
        raise SystemExit(f"{folder} has no results of benchmarks/speed.py --mode train")
    path = folder / "rates.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    return path


def rates_of(results: dict[str, Any]) -> dict[str, float] | None:
    """teraflops, terabytes and gigabytes of the card, None where nothing unpruned was measured."""
    config = preset_config(results["settings"]["preset"], STTSConfig())
    sizes = {"text_tokens": TEXT_TOKENS, "text_per_frame": TEXT_PER_FRAME, "logits": ANSWER_TOKENS + 1}
    reached = [
        2 * multiply_adds(config, row["frames"], **sizes, backward=True).total / row["seconds"] / 1e12
        for row in results["rows"]
        if row["variant"] == "unpruned" and row.get("seconds")  # none where it was out of memory
    ]
    if not reached:
        return None
    memory = results["machine"].get("gpu_memory", 1e9)
    return {
        "teraflops": round(median(reached), 6),
        "terabytes": NO_TRAFFIC,
        "gigabytes": round(memory / 1e9, 1),
    }


def card(machine: dict[str, Any]) -> str:
    """The name under which scripts/plan.py knows it, or its own."""
    name = machine.get("gpu", machine["cpu"])
    return next((known for known in GPUS if known.partition("-")[0] in name), name)


if __name__ == "__main__":
    print(main())
