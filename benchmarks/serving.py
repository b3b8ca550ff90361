"""python benchmarks/serving.py: what a vLLM server of this library spends on clips, 1 to 8 requests at once.

Pruning inside the ViT ("scorer") against dropping as many windows after it ("evs", vLLM's own way with other models)
and against none, in turns, an engine started anew for each (serving_engine.py). A random model; every request brings
a clip that no other has, and gets as many new tokens. --engine: the Python that has vLLM (docs/serving.md). The limit
is the ratio of multiply-adds of one prompt (stts/hosts/flops.py); new tokens, the same for all, are not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from common import machine, parser, print_table, rounded, write_results
from figures import bars, figure, hardware

from stts import STTSConfig, STTSMolmo2ForConditionalGeneration
from stts.data.processors.molmo2 import VideoProcessor
from stts.data.synthetic.clips import vocabulary_texts
from stts.hosts.flops import limit
from stts.hosts.sizes import Sizes
from stts.hosts.tiny import build_config, build_tokenizer

SIZES = {
    "mid": Sizes(
        image=252,
        patch=14,
        vision_width=192,
        vision_mlp=768,
        vision_blocks=12,
        features=(11, 8),
        llm_width=512,
        llm_mlp=1536,
        llm_layers=8,
    ),
    "tiny": Sizes(),
}
ENGINE = Path(".venv-serving/bin/python")
Way = tuple[str, float]
"""Policy and share of the windows that go."""
NONE: Way = ("none", 0.0)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    options = parser(__doc__, repeats=3)
    options.add_argument("--engine", type=Path, default=ENGINE, help="Python with vLLM (default %(default)s)")
    options.add_argument("--preset", choices=SIZES, default="mid")
    options.add_argument("--ratios", type=float, nargs="+", default=[0.5, 0.8])
    options.add_argument("--at-once", type=int, nargs="+", default=[1, 2, 4, 8])
    options.add_argument("--requests", type=int, default=8, help="at every number at once")
    options.add_argument("--frames", type=int, default=16)
    options.add_argument("--new-tokens", type=int, default=16)
    return options.parse_args(arguments)


def main(arguments: list[str] | None = None) -> Path:
    args = parse(arguments)
    facts = machine() | {"threads": args.threads}
    ways = [NONE, *((policy, ratio) for ratio in args.ratios for policy in ("evs", "scorer"))]
    runs: dict[Way, list[list[dict[str, Any]]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        config = make_model(Path(folder), SIZES[args.preset])
        limits = {way: limit(config, args.frames, way[1], logits=1) for way in ways if way[0] == "scorer"}
        for repeat in range(args.repeats):
            for way in ways:
                runs[way].append(run_engine(args, folder, way, repeat))
                print(f"repeat {repeat + 1} of {args.repeats}: {way[0]} {way[1]:.0%}", flush=True)
    del args.engine  # a path of this machine
    path = write_results(f"serving-{args.preset}", args, rows_of(runs, limits), facts)
    rows = json.loads(path.read_text())["rows"]
    report(rows, args)
    draw(path)
    return path


def make_model(folder: Path, sizes: Sizes) -> Any:
    """Save a random model of these sizes; its configuration."""
    tokenizer = build_tokenizer([*vocabulary_texts(), "user", "assistant"])
    config = build_config(tokenizer, sizes)
    config.stts = STTSConfig().to_dict()
    torch.manual_seed(0)
    model = STTSMolmo2ForConditionalGeneration(config)
    model.save_pretrained(folder)
    VideoProcessor(tokenizer, sizes.image, sizes.patch).save_pretrained(folder)
    return model.config


def run_engine(args: argparse.Namespace, folder: str, way: Way, seed: int) -> list[dict[str, Any]]:
    """One start of an engine: a row for each number at once. Raises SystemExit with what it said where it fails."""
    settings = {
        "frames": args.frames,
        "requests": args.requests,
        "new-tokens": args.new_tokens,
        "seed": seed,
    }
    options = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    command = [
        str(args.engine),
        str(Path(__file__).with_name("serving_engine.py")),
        *(folder, way[0], str(way[1]), *options, "--at-once", *map(str, args.at_once)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(args.threads))
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    told = json.loads(done.stdout.strip().splitlines()[-1])
    args.vllm = told["vllm"]
    return told["rows"]


def environment(threads: int) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}


def rows_of(runs: dict[Way, list[list[dict[str, Any]]]], limits: dict[Way, float]) -> list[dict[str, Any]]:
    """A row for each way and number at once: medians over the repeats, and how many times the others' seconds."""
    rows, seconds = [], {}
    for way, repeats in runs.items():
        for turns in zip(*repeats, strict=True):
            middle = {key: median(turn[key] for turn in turns) for key in ("seconds", "wall", "vit", "llm")}
            seconds[way, turns[0]["at_once"]] = middle["seconds"]
            rows.append(
                {
                    "policy": way[0],
                    "ratio": way[1],
                    "at_once": turns[0]["at_once"],
                    **{key: round(value, 4) for key, value in middle.items()},
                    "repeats": [round(turn["seconds"], 4) for turn in turns],
                    "limit": round(limits[way], 4) if way in limits else None,
                }
            )
    for row in rows:
        rivals = {"over_none": NONE, "over_evs": ("evs", row["ratio"])}
        for name, way in rivals.items():
            rival = seconds.get((way, row["at_once"]))
            row[name] = rival and round(rival / row["seconds"], 4)
    return rows


def report(rows: Sequence[dict[str, Any]], args: argparse.Namespace) -> None:
    columns = ("policy", "dropped", "at once", "CPU s", "ViT", "LLM", "over none", "over evs", "limit")
    cells = [
        [
            *(row["policy"], f"{row['ratio']:.0%}", row["at_once"]),
            *(rounded(row[key]) for key in ("seconds", "vit", "llm")),
            *(rounded(row[key]) for key in ("over_none", "over_evs", "limit")),
        ]
        for row in rows
    ]
    title = f"{args.requests} clips of {args.frames} frames, {args.new_tokens} new tokens each, {args.preset}"
    print_table(title, columns, cells)


def draw(path: Path) -> Path:
    """Draw <name>.png beside <name>.json: how many times less than without pruning. Returns its path."""
    results = json.loads(path.read_text())
    rows = [row for row in results["rows"] if row["ratio"]]
    ratios = sorted({row["ratio"] for row in rows})
    title = f"Served by vLLM, CPU seconds against no pruning\n{hardware(results['machine'])}"
    with figure(path, title, len(ratios)) as axes:
        for ax, ratio in zip(axes, ratios, strict=True):
            found = [row for row in rows if row["ratio"] == ratio]
            groups = [str(n) for n in sorted({row["at_once"] for row in found})]
            names = {"evs": "after the ViT (evs)", "scorer": "inside the ViT"}
            series = {
                label: [row["over_none"] for row in found if row["policy"] == policy]
                for policy, label in names.items()
            }
            bars(ax, groups, series, "times less")
            bound = next(row["limit"] for row in found if row["limit"])
            ax.axhline(bound, color="C1", linestyle="--", linewidth=1)
            ax.axhline(1, color="0.7", linewidth=0.8)
            top = 1.3 * max(bound, *(height for heights in series.values() for height in heights))
            ax.set(xlabel=f"requests at once, {ratio:.0%} dropped (dashed: limit)", ylim=(0, top))
    return path.with_suffix(".png")


if __name__ == "__main__":
    print(draw(Path(sys.argv[2])) if sys.argv[1:2] == ["--draw"] else main())
