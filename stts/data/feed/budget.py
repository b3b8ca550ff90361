"""Which examples share a row: first-fit decreasing under two budgets, surviving tokens and frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """What an example takes of a row."""

    tokens: int
    """That survive pruning: what the LLM reads."""
    frames: int
    """That the ViT sees: where a unit of time has two, an odd number's last frame twice."""


@dataclass(frozen=True)
class Budget:
    """What a row may hold; None: any amount."""

    tokens: int | None = None
    frames: int | None = None

    def holds(self, size: Size) -> bool:
        """Whether an example fits into an empty row."""
        return size.tokens <= _limit(self.tokens) and size.frames <= _limit(self.frames)

    def share(self, size: Size) -> float:
        """Of a row, in the budget that the example uses most of."""
        return max(size.tokens / _limit(self.tokens), size.frames / _limit(self.frames))


def past_context(tokens: int, size: Size, limit: int | None, position_ids: str = "original") -> str | None:
    """What to say of an example that goes past the positions its model was made for; None where it does not.

    tokens: its length before pruning; size: what survives; limit: the model's, as processor.context_length has it
    (None: any); position_ids: as in STTSConfig, which decides whether survivors stand where they stood before.
    """
    reached = size.tokens if position_ids == "compact" else tokens
    if limit is None or reached <= limit:
        return None
    more = " or position_ids=compact" if size.tokens <= limit else ""
    return (
        f"{tokens:,} tokens with {size.frames:,} frames, {size.tokens:,} after pruning: positions go up to "
        f"{reached:,} (position_ids={position_ids}), the model's max_position_embeddings is {limit:,}, so what it "
        f"says beyond may make no sense; take fewer frames{more}"
    )


def first_fit(sizes: Sequence[Size], order: Iterable[int], budget: Budget, max_rows: int) -> list[list[int]]:
    """Put each example into the first row with room, opening at most max_rows; what finds none is left out.

    order: numbers of examples, the next to place first. Returns the numbers in each row, both ascending.
    """
    rows: list[list[int]] = []
    room: list[tuple[float, float]] = []
    for i in order:
        tokens, frames = sizes[i].tokens, sizes[i].frames
        row = next((r for r, (t, f) in enumerate(room) if tokens <= t and frames <= f), len(rows))
        if row == len(rows):
            if row == max_rows or not budget.holds(sizes[i]):
                continue
            rows.append([])
            room.append((_limit(budget.tokens), _limit(budget.frames)))
        rows[row].append(i)
        room[row] = (room[row][0] - tokens, room[row][1] - frames)
    return sorted(sorted(row) for row in rows)


def decreasing(sizes: Sequence[Size], budget: Budget) -> list[int]:
    """Numbers of the examples, largest first, equal ones in order."""
    return sorted(range(len(sizes)), key=lambda i: -budget.share(sizes[i]))


def look_ahead(sizes: Sequence[Size], budget: Budget, num_rows: int) -> list[list[int]]:
    """Fill num_rows rows from examples that wait, oldest first: which go into each row.

    The oldest one comes along always, so none waits longer than there are places to wait; then the largest that
    fit, so that the small ones are there to fill the gaps.
    """
    order = [0, *(i for i in decreasing(sizes, budget) if i)]
    return first_fit(sizes, order, budget, num_rows)


def _limit(budget: int | None) -> float:
    return float("inf") if budget is None else budget
