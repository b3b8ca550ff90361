"""What a look over training data found, in words and numbers for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from .check import Epoch, Findings
from .feed.budget import Budget, past_context

QUANTILES = (0.0, 0.1, 0.5, 0.9, 0.99, 1.0)
SHOWN = 50
"""Problems that are printed; a file gets all of them."""


def print_problems(console: Console, findings: Findings, max_bad_fraction: float) -> bool:
    """List what is wrong, and what is odd; True when training would go on all the same."""
    for problem in findings.wrong[:SHOWN]:
        console.print(problem, markup=False, soft_wrap=True)
    for note in findings.notes[:SHOWN]:
        console.print(note, markup=False, soft_wrap=True)
    if len(findings.wrong) > SHOWN:
        console.print(f"and {len(findings.wrong) - SHOWN} more")
    looked_at = len(findings.measured) + len(findings.wrong)
    share = len(findings.wrong) / max(looked_at, 1)
    console.print(
        f"{findings.num_rows} rows, {looked_at} looked at, {len(findings.wrong)} wrong ({share:.2%}; training goes "
        f"on with up to {max_bad_fraction:.2%} unreadable videos, and with no wrong row)"
    )
    return share <= max_bad_fraction


def print_sizes(console: Console, findings: Findings, prune_ratio: float) -> None:
    """How long examples are: a row each for tokens, frames and supervised tokens."""
    found = list(findings.measured.values())
    table = Table("of each example", "mean", *(_name(q) for q in QUANTILES))
    for name, values in (
        (f"tokens at prune_ratio={prune_ratio:g}", [m.size.tokens for m in found]),
        ("tokens before pruning", [m.tokens for m in found]),
        ("supervised tokens", [m.supervised for m in found]),
        ("frames", [m.size.frames for m in found]),
    ):
        table.add_row(name, f"{np.mean(values):,.1f}", *(f"{q:,.0f}" for q in np.quantile(values, QUANTILES)))
    console.print(table)


def print_context(
    console: Console, findings: Findings, context_length: int | None, position_ids: str
) -> None:
    """Say how many examples go past the positions the model was made for, and how far the longest does."""
    sizes = [(m.tokens, m.size) for m in findings.measured.values()]
    told = [past_context(tokens, size, context_length, position_ids) for tokens, size in sizes]
    if past := [number for number, text in enumerate(told) if text]:
        longest = max(past, key=lambda number: sizes[number][0])
        text = f"warning: {len(past)} of {len(sizes)} examples are too long for the model; one has {told[longest]}"
        console.print(text, markup=False, soft_wrap=True)


def print_epoch(
    console: Console, epoch: Epoch, budget: Budget, passes_per_step: int, packed: bool, estimated: bool
) -> None:
    """How long an epoch is. passes_per_step: forward passes of all processes in an optimizer step."""
    about = "about " if estimated else ""
    steps = -(-epoch.batches // passes_per_step)
    console.print(
        f"an epoch: {about}{epoch.examples:,} examples, {epoch.tokens:,} tokens, {epoch.frames:,} frames, "
        f"{steps:,} steps"
    )
    if packed and epoch.rows:
        shares = [f"{n / (epoch.rows * limit):.1%} of the {name}" for name, n, limit in _fills(epoch, budget)]
        console.print(f"rows: {epoch.rows:,}, filled to {' and '.join(shares)}")
    if epoch.too_long:
        console.print(f"too long for a row: {about}{epoch.too_long:,} examples (train.too_long)")


def _fills(epoch: Epoch, budget: Budget) -> Sequence[tuple[str, int, int]]:
    found = (("tokens", epoch.tokens, budget.tokens), ("frames", epoch.frames, budget.frames))
    return [(name, number, limit) for name, number, limit in found if limit]


def _name(quantile: float) -> str:
    return {0.0: "min", 0.5: "median", 1.0: "max"}.get(quantile, f"{quantile:.0%}")
