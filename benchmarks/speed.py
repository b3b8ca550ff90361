"""python benchmarks/speed.py --preset cpu-mid --mode train: how much faster pruning is, against what it can be.

Three ways in the same run: no pruning (transformers' own forward), pruning inside the ViT, and pruning the same
number of windows after the whole ViT ("llm-only"). The limit is the ratio of multiply-adds (stts/flops.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from common import (
    RESULTS,
    Step,
    Timing,
    machine,
    measure,
    megabytes,
    peak_memory,
    print_table,
    timing_fields,
    write_results,
)
from presets import (
    PRESETS,
    TEXT_PER_FRAME,
    TEXT_TOKENS,
    build_model,
    make_inputs,
    preset_config,
    prune_after_vit,
)
from speed_figure import draw

from stts import STTSConfig, STTSMolmo2ForConditionalGeneration
from stts.config import BACKENDS
from stts.flops import limit, vision_limit

MODES = ("train", "prefill", "vit", "generate")
NEW_TOKENS = 16


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--mode", choices=MODES, default="prefill", help="train: forward and backward")
    parser.add_argument("--frames", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.5, 0.8])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: bfloat16 on CUDA")
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="kernel of the pruned ViT blocks")
    parser.add_argument("--llm-attention", help="sdpa, flex_attention, ... (default: transformers' choice)")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations in the backward")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=0, help="on top of one pass that measures memory")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder")
    parser.add_argument("--name", help="of the files written, default speed-<preset>-<mode>-<device>")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> Path:
    args = parse(arguments)
    if not args.device.startswith("cuda"):
        torch.set_num_threads(args.threads)
    facts = machine(args.device)
    cuda = args.device.startswith("cuda")
    dtype = getattr(torch, args.dtype or ("bfloat16" if cuda else "float32"))
    config = preset_config(args.preset, STTSConfig(attention=args.backend))
    model = build_model(config, args.device, dtype, args.llm_attention).train(args.mode == "train")
    if args.checkpointing:
        model.gradient_checkpointing_enable()
    settings = vars(args) | {"dtype": str(dtype).removeprefix("torch.")}
    settings = {key: value for key, value in settings.items() if key not in ("output", "name")}
    name = args.name or f"speed-{args.preset}-{args.mode}-{args.device.split(':')[0]}"
    rows = []
    for frames in args.frames:
        rows += measure_frames(model, frames, args)
        # after every number of frames: a long run may be cut short
        path = write_results(name, settings, rows, args.output, facts)
    report(rows, args)
    draw(path)
    return path


def measure_frames(
    model: STTSMolmo2ForConditionalGeneration, frames: int, args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Rows of one number of frames: unpruned, then two for each ratio."""
    inputs = make_inputs(model.config, frames, args.device)
    if args.mode != "train":
        del inputs["labels"]
    variants = [("unpruned", 0.0), *((name, r) for r in args.ratios for name in ("pruned", "llm-only"))]
    if args.mode == "vit":
        variants = [v for v in variants if v[0] != "llm-only"]
    steps = {v: make_step(model, inputs, args.mode, *v) for v in variants}
    peaks = {v: peak_memory(step, args.device) for v, step in steps.items()}
    timings = measure(steps, args.device, args.repeats, args.warmup)
    for variant in variants:
        yield make_row(model, frames, args.mode, variant, timings, peaks)


def make_step(
    model: STTSMolmo2ForConditionalGeneration, inputs: dict[str, Any], mode: str, variant: str, ratio: float
) -> Step:
    """One pass of one variant, settings of the model included."""
    run = {"train": train, "prefill": prefill, "vit": vit, "generate": generate}[mode]

    def step() -> None:
        model.stts = model.stts.replace(prune_ratio=ratio)
        if variant == "llm-only":
            with prune_after_vit(model):
                run(model, inputs)
        else:
            run(model, inputs)

    return step


def train(model: STTSMolmo2ForConditionalGeneration, inputs: dict[str, Any]) -> None:
    """Forward and backward; no optimizer."""
    model(**inputs, use_cache=False).loss.backward()
    model.zero_grad(set_to_none=True)


@torch.no_grad()
def prefill(model: STTSMolmo2ForConditionalGeneration, inputs: dict[str, Any]) -> None:
    model(**inputs, logits_to_keep=1)


@torch.no_grad()
def vit(model: STTSMolmo2ForConditionalGeneration, inputs: dict[str, Any]) -> None:
    """The vision tower alone."""
    pixels, frames = inputs["pixel_values_videos"], inputs["layout"].frames_per_video
    if model.stts.prune_ratio:
        model.model.vision_tower.encode(pixels, model.stts, frames, model.model.feature_layers)
    else:
        model.model.vision_tower(pixels.float().div(127.5).sub(1))


def generate(model: STTSMolmo2ForConditionalGeneration, inputs: dict[str, Any]) -> None:
    model.generate(
        **inputs, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0
    )


def arithmetic_limit(
    model: STTSMolmo2ForConditionalGeneration, frames: int, mode: str, variant: str, ratio: float
) -> float | None:
    """None for generation, whose decoding is bound by memory rather than by arithmetic."""
    if mode == "generate":
        return None
    if mode == "vit":
        return vision_limit(model.config, frames, ratio)
    settings = {"backward": True} if mode == "train" else {"logits": 1}
    settings |= {"text_tokens": TEXT_TOKENS, "text_per_frame": TEXT_PER_FRAME}
    return limit(model.config, frames, ratio, llm_only=variant == "llm-only", **settings)


def make_row(
    model: STTSMolmo2ForConditionalGeneration,
    frames: int,
    mode: str,
    variant: tuple[str, float],
    timings: dict[tuple[str, float], Timing],
    peaks: dict[tuple[str, float], int | None],
) -> dict[str, Any]:
    speedup = timings["unpruned", 0.0].seconds / timings[variant].seconds
    bound = arithmetic_limit(model, frames, mode, *variant)
    base, peak = peaks["unpruned", 0.0], peaks[variant]
    return {
        "frames": frames,
        "variant": variant[0],
        "ratio": variant[1],
        **timing_fields(timings[variant]),
        "speedup": round(speedup, 4),
        "limit": bound and round(bound, 4),
        "share_of_limit": bound and round(speedup / bound, 4),
        "peak_bytes": peak,
        "peak_share": round(peak / base, 4) if base and peak is not None else None,
    }


def report(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    columns = (
        "variant",
        "ratio",
        "frames",
        "s",
        "wall s",
        "speed-up",
        "limit",
        "of limit",
        "peak MB",
        "peak share",
    )
    keys = ("speedup", "limit", "share_of_limit")
    cells = []
    for row in rows:
        ratios = ["-" if row[key] is None else f"{row[key]:.2f}" for key in keys]
        head = [row["variant"], row["ratio"] or None, row["frames"]]
        cells.append(
            [
                *head,
                f"{row['seconds']:.3f}",
                f"{row['wall']:.3f}",
                *ratios,
                megabytes(row["peak_bytes"]),
                row["peak_share"],
            ]
        )
    print_table(f"{args.preset}, {args.mode}, {args.device}", columns, cells)


if __name__ == "__main__":
    print(main())
