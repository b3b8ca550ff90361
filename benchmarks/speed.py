"""python benchmarks/speed.py --preset cpu-mid --mode train: how much faster pruning is, against what it can be.

Ways of spending the same budget of windows, in turns in one run: no pruning (transformers' own forward), pruning
inside the ViT ("pruned"), dropping windows after the whole ViT ("after-vit", as EVS does in vLLM) and merging them
where the others are dropped ("tome"). The limit is the ratio of multiply-adds (stts/hosts/flops.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import presets
import presets_qwen3_vl
import torch
from common import (
    Step,
    Timing,
    default_device,
    measure,
    megabytes,
    on_cuda,
    parser,
    peak_if_it_fits,
    prepare,
    print_table,
    rounded,
    timing_fields,
    write_results,
)
from presets import ANSWER_TOKENS, TEXT_PER_FRAME, TEXT_TOKENS
from speed_figure import draw
from torch import nn

from stts import STTSConfig
from stts.hosts.encoding import clips_of
from stts.hosts.flops import limit, vision_limit
from stts.hosts.llm_attention import choose_llm_attention
from stts.pruning.attention import install
from stts.pruning.config import BACKENDS
from stts.pruning.run import Run
from stts.train.compiled import compile_layers

FAMILIES = {"molmo2": presets, "qwen3_vl": presets_qwen3_vl}
"""By model_type: presets, models and inputs."""
PRESETS = {name: family for family in FAMILIES.values() for name in family.PRESETS}
MODES = ("train", "prefill", "vit", "generate")
POLICY_OF = {"pruned": "scorer", "after-vit": "evs", "tome": "tome"}
"""What each way is called in STTSConfig.policy."""
NEW_TOKENS = 16
Variant = tuple[str, float]
"""A way and its prune ratio."""
UNPRUNED: Variant = ("unpruned", 0.0)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    options = parser(__doc__, default_device())
    options.add_argument("--preset", choices=PRESETS, default="tiny")
    options.add_argument("--mode", choices=MODES, default="prefill", help="train: forward and backward")
    options.add_argument("--frames", type=int, nargs="+", default=[16, 32])
    options.add_argument("--ratios", type=float, nargs="+", default=[0.5, 0.8])
    options.add_argument("--variants", choices=POLICY_OF, nargs="+", default=list(POLICY_OF))
    options.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: bfloat16 on CUDA")
    options.add_argument(
        "--backend", choices=BACKENDS, default="auto", help="kernel of the pruned ViT blocks"
    )
    options.add_argument("--llm-attention", help="sdpa, block_sparse, ... (default: block_sparse on CUDA)")
    options.add_argument("--compile", action="store_true", help="torch.compile the layers")
    options.add_argument("--checkpointing", action="store_true", help="recompute activations in the backward")
    options.add_argument("--warmup", type=int, default=0, help="on top of one pass that measures memory")
    options.add_argument("--name", help="of the files written, default speed-<preset>-<mode>")
    return options.parse_args(arguments)


def main(arguments: list[str] | None = None) -> Path:
    args = parse(arguments)
    facts = prepare(args)
    args.dtype = args.dtype or ("bfloat16" if on_cuda(args.device) else "float32")
    if PRESETS[args.preset] is presets:
        args.llm_attention = choose_llm_attention(args.llm_attention, args.device)
    elif args.mode == "vit":
        raise SystemExit("--mode vit measures Molmo2's vision tower: take another mode with this preset")
    model = make_model(args)
    rows = []
    for frames in args.frames:
        rows += measure_frames(model, frames, args)
        # after every number of frames: a long run may be cut short
        path = write_results(args.name or f"speed-{args.preset}-{args.mode}", args, rows, facts)
    report(rows, args)
    draw(path)
    return path


def make_model(args: argparse.Namespace) -> nn.Module:
    """Random weights, made on the device."""
    family = PRESETS[args.preset]
    config = family.preset_config(args.preset, STTSConfig(attention=args.backend))
    model = family.build_model(config, args.device, getattr(torch, args.dtype), args.llm_attention)
    if args.checkpointing:
        model.gradient_checkpointing_enable()
    if args.compile:
        compile_layers(model)
    return model.train(args.mode == "train")


def measure_frames(model: nn.Module, frames: int, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows of one number of frames: unpruned, then every way at every ratio. What does not fit into the memory of
    the device has a row without times."""
    inputs = FAMILIES[model.config.model_type].make_inputs(model.config, frames, args.device)
    if args.mode != "train":
        del inputs["labels"]
    ways = [way for way in args.variants if args.mode != "vit" or way != "after-vit"]
    variants = [UNPRUNED, *((way, ratio) for ratio in args.ratios for way in ways)]
    steps = {variant: make_step(model, inputs, args.mode, *variant) for variant in variants}
    # on a CPU a pass is dear, and the peaks of the ways compared with tell little
    sized = [v for v in variants if on_cuda(args.device) or v[0] in ("unpruned", "pruned")]
    peaks = {v: peak_if_it_fits(steps[v], args.device) if v in sized else None for v in variants}
    fitting = {variant: step for variant, step in steps.items() if peaks[variant] != "out of memory"}
    timings = measure(fitting, args.device, args.repeats, args.warmup)
    for variant in variants:
        yield make_row(model, frames, args.mode, variant, timings, peaks)


def make_step(model: nn.Module, inputs: dict[str, Any], mode: str, way: str, ratio: float) -> Step:
    """One pass of one variant, settings of the model included."""
    run = {"train": train, "prefill": prefill, "vit": vit, "generate": generate}[mode]

    def step() -> None:
        model.stts = model.stts.replace(policy=POLICY_OF.get(way, "scorer"), prune_ratio=ratio)
        run(model, inputs)
        model.zero_grad(set_to_none=True)

    return step


def train(model: nn.Module, inputs: dict[str, Any]) -> None:
    """Forward and backward, logits in front of labels alone, as the trainer has it; no optimizer."""
    model(**inputs, num_targets=ANSWER_TOKENS, use_cache=False).loss.backward()


@torch.no_grad()
def prefill(model: nn.Module, inputs: dict[str, Any]) -> None:
    model(**inputs, logits_to_keep=1)


@torch.no_grad()
def vit(model: nn.Module, inputs: dict[str, Any]) -> None:
    """The vision tower alone."""
    host, layout = model.host, inputs["layout"]
    pixels = host.accept(inputs)["pixel_values_videos"]
    if not model.stts.prune_ratio:
        host.vision(pixels)
        return
    install(host.vision.config)
    clips = clips_of(host, inputs, layout)
    with Run(host, clips, model.stts, host.scorer, collect=host.collects).active():
        host.vision(pixels)


def generate(model: nn.Module, inputs: dict[str, Any]) -> None:
    model.generate(
        **inputs, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0
    )


def arithmetic_limit(model: nn.Module, frames: int, mode: str, variant: Variant) -> float | None:
    """None for generation, whose decoding is bound by memory rather than by arithmetic."""
    way, ratio = variant
    model.stts = model.stts.replace(policy=POLICY_OF.get(way, "scorer"), prune_ratio=ratio)
    if mode == "generate":
        return None
    if mode == "vit":
        return vision_limit(model.config, frames, ratio)
    settings = {"backward": True, "logits": ANSWER_TOKENS + 1} if mode == "train" else {"logits": 1}
    if model.config.model_type == "qwen3_vl":
        return presets_qwen3_vl.limit(model.config, frames, ratio, **settings)
    settings |= {"text_tokens": TEXT_TOKENS, "text_per_frame": TEXT_PER_FRAME}
    return limit(model.config, frames, ratio, **settings)


def make_row(
    model: nn.Module,
    frames: int,
    mode: str,
    variant: Variant,
    timings: dict[Variant, Timing],
    peaks: dict[Variant, int | str | None],
) -> dict[str, Any]:
    """speedup: median seconds unpruned over median seconds; speedup_range: least and most of a turn."""
    row = {"frames": frames, "variant": variant[0], "ratio": variant[1], "peak_bytes": peaks[variant]}
    bound = arithmetic_limit(model, frames, mode, variant)
    row["limit"] = bound and round(bound, 4)
    if variant in timings:
        row |= timing_fields(timings[variant])
    if {variant, UNPRUNED} <= timings.keys():
        ours, base = timings[variant], timings[UNPRUNED]
        turns = [b / o for o, b in zip(ours.repeats, base.repeats, strict=True)]
        speedup = base.seconds / ours.seconds
        row |= {"speedup": round(speedup, 4), "speedup_range": [round(min(turns), 4), round(max(turns), 4)]}
        row["share_of_limit"] = bound and round(speedup / bound, 4)
    ours, base = peaks[variant], peaks[UNPRUNED]
    if isinstance(ours, int) and isinstance(base, int) and base:
        row["peak_share"] = round(ours / base, 4)
    return row


def report(rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    columns = (
        *("way", "ratio", "frames", "s", "wall s", "speed-up", "of a turn", "limit", "of limit"),
        *("peak MB", "peak share"),
    )
    cells = []
    for row in rows:
        peak, turns = row["peak_bytes"], row.get("speedup_range")
        cells.append(
            [
                *(row["variant"], row["ratio"] or None, row["frames"]),
                *(rounded(row.get(key), 3) for key in ("seconds", "wall")),
                rounded(row.get("speedup")),
                turns and f"{turns[0]:.2f} to {turns[1]:.2f}",
                *(rounded(row.get(key)) for key in ("limit", "share_of_limit")),
                peak if isinstance(peak, str) else megabytes(peak),
                rounded(row.get("peak_share")),
            ]
        )
    print_table(f"{args.preset}, {args.mode}, {args.device}", columns, cells)


if __name__ == "__main__":
    print(main())
