"""What batches hold and what was left out of them, for the metrics and for whoever reads the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .budget import Budget, Size
from .order import Place


class BadDataError(ValueError):
    """More examples cannot be read than the settings allow; the text lists them."""


@dataclass(frozen=True)
class Load:
    """What a batch holds, for the metrics."""

    examples: int = 0
    tokens: int = 0
    """That survive pruning."""
    frames: int = 0
    rows: int = 0


def load_of(sizes: Sequence[Size], rows: int) -> Load:
    """What a batch of examples of these sizes in so many rows holds."""
    return Load(len(sizes), sum(size.tokens for size in sizes), sum(size.frames for size in sizes), rows)


def data_sums(batches: Sequence[dict[str, Any]], place: Place) -> dict[str, int]:
    """What one process adds to the sums of a step, by name. Batches may be made by hand, without a load.

    examples, tokens, frames, rows: as in Load, of these batches; bad: examples that could not be read since the run
    began; too_long: how often one was too long since then.
    """
    loads = [batch.get("load") or Load(len(batch["ids"])) for batch in batches]
    sums = {field.name: sum(getattr(load, field.name) for load in loads) for field in fields(Load)}
    return sums | {"bad": len(place.bad), "too_long": place.too_long}


def feed_row(sums: Mapping[str, float], budget: Budget) -> dict[str, float]:
    """What the metrics say of the data of a step.

    sums: those of data_sums, added up over processes; a bad example that several processes met counts for each.
    fill, fill_frames: share of the budget of the rows that is used.
    """
    row = {name: int(sums[name]) for name in ("examples", "bad", "too_long")}
    for name, used, budgeted in (("fill", "tokens", budget.tokens), ("fill_frames", "frames", budget.frames)):
        if budgeted:
            row[name] = sums[used] / (sums["rows"] * budgeted) if sums["rows"] else 0.0
    return row


def too_many_bad(number: int, bad: dict[str, str], allowed: int, total: int, log: Path | None) -> str:
    """What to tell of examples that cannot be read; bad: those of this process, name -> why."""
    shown = [f"  {name}: {error}" if error else f"  {name}" for name, error in list(bad.items())[-20:]]
    more = [f"  and {len(bad) - 20} before"] if len(bad) > 20 else []
    where = f"; all are in {log}" if log else ""
    return (
        f"{number} of {total} examples cannot be read, data.max_bad_fraction allows {allowed}{where}:\n"
        + "\n".join(more + shown)
    )


def log_path(output_dir: Path, rank: int) -> Path:
    """Where a process lists the examples it left out or shortened."""
    return output_dir / ("left_out.jsonl" if rank == 0 else f"left_out-{rank}.jsonl")
