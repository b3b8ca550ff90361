"""A plan in words and numbers for a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from .cost import Plan
from .gpus import FRAMES_PER_CORE, SPREAD, Gpu, fits
from .lengths import Examples

PARTS = ("weights", "gradients", "moments", "activations", "logits", "buffers", "merged")


def print_plans(console: Console, plans: list[Plan]) -> None:
    """Tokens, arithmetic and memory; the last plan is the unpruned one."""
    unpruned = plans[-1]
    table = Table("of a video", *(_name(plan) for plan in plans))
    table.add_row("tokens to the LLM", *(f"{plan.tokens:,}" for plan in plans))
    table.add_row("TFLOP, forward and backward", *(f"{plan.teraflop:,.0f}" for plan in plans))
    limits = [f"{unpruned.teraflop / plan.teraflop:.2f}" for plan in plans]
    table.add_row("limit of the speed-up", *limits)
    console.print(table)
    table = Table("GB of each GPU, at least", *(_name(plan) for plan in plans))
    for part in PARTS:
        if part == "merged" and not any(plan.needed.parts.get(part) for plan in plans):
            continue  # adapters, at the end of a run
        name = "gradients, recomputed" if part == "gradients" and unpruned.setup.recompute else part
        table.add_row(name, *(f"{plan.needed.parts.get(part, 0) / 1e9:.1f}" for plan in plans))
    table.add_row("peak", *(f"{plan.gigabytes():.1f}" for plan in plans))
    console.print(table)


def print_cards(
    console: Console,
    plans: list[Plan],
    gpus: Mapping[str, Gpu],
    measured: bool,
    examples: Examples,
    shares: list[float],
) -> None:
    """Whether each card holds it, and how long steps and an epoch take. shares: of plans, the mean example's."""
    setup = plans[0].setup
    table = Table("card", "", "fits", "s a step", "h an epoch")
    steps = examples.number / (setup.gpus * setup.batch_size)
    for name, gpu in gpus.items():
        for plan, share in zip(plans, shares, strict=True):
            low, high = (seconds * share for seconds in plan.seconds(gpu))
            hours = _range(*(x * steps / 3600 for x in (low, high)))
            fit = fits(plan.gigabytes(), gpu)
            table.add_row(name if plan is plans[0] else "", _name(plan), fit, _range(low, high), hours)
    console.print(table)
    rates = ", ".join(f"{name} {g.teraflops:g} TFLOP/s and {g.terabytes:g} TB/s" for name, g in gpus.items())
    said = (
        "measured"
        if measured
        else f"guessed, so times are told from {SPREAD[0]:g} to {SPREAD[1]:g} of what they give"
    )
    console.print(f"rates ({said}): {rates}", soft_wrap=True)
    how = {"ddp": "each whole (DDP)", "fsdp": "the model sharded (FSDP2)"}[setup.parallel]
    needed = plans[0].needed
    trained = "all" if needed.learned == needed.parameters else f"{needed.learned / 1e6:,.0f} million"
    console.print(
        f"{setup.gpus} GPUs, {how}, {setup.batch_size} videos a GPU and forward pass, "
        f"{'activations recomputed' if setup.recompute else 'activations kept'}, in bfloat16; {trained} of "
        f"{needed.parameters / 1e9:.2f} billion weights trained; an epoch is {examples.number:,} videos. "
        f"Not counted: what kernels take inside, traffic between GPUs, waiting for data.",
        soft_wrap=True,
    )


def print_feed(
    console: Console, plan: Plan, gpus: Mapping[str, Gpu], examples: Examples, share: float, per: int
) -> None:
    """How many cores must decode so that the fastest card never waits. per: frames of a unit."""
    name, gpu = max(gpus.items(), key=lambda item: item[1].teraflops)
    frames = examples.frames / examples.number * per * plan.setup.batch_size * plan.setup.gpus
    cores = frames / (plan.seconds(gpu)[0] * share) / FRAMES_PER_CORE
    console.print(
        f"data: {frames:,.0f} frames a step are {cores:,.0f} cores' work for {plan.setup.gpus} x {name}, "
        f"{cores / plan.setup.gpus:.1f} workers a GPU (train.num_workers), at {FRAMES_PER_CORE:g} frames a core "
        "and second",
        soft_wrap=True,
    )


def print_evaluation(console: Console, plan: Plan) -> None:
    """What evaluating in the middle of training takes on top."""
    if plan.setup.shards > 1:
        whole = plan.setup.dtype.itemsize * plan.needed.parameters / 1e9
        console.print(
            f"evaluation (train.eval_every): the first GPU holds the whole model, too, {whole:.0f} GB more"
        )


def _name(plan: Plan) -> str:
    return f"{plan.ratio:.0%} pruned" if plan.ratio else "unpruned"


def _range(low: float, high: float) -> str:
    digits = 2 if high < 10 else 0
    return f"{low:,.{digits}f} to {high:,.{digits}f}"
