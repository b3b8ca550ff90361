"""Positions in the order -> examples, one by one, as workers read them."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

from torch.utils.data import Dataset

from .collator import Example
from .order import Order


@dataclass(frozen=True)
class Unreadable:
    """Stands for an example that could not be read."""

    name: str
    error: str


class ExampleReader(Dataset):
    """Position in the order -> the example there, with "position"; Unreadable where it cannot be read."""

    def __init__(self, dataset: Dataset, order: Order) -> None:
        self.dataset, self.order = dataset, order

    def __getitem__(self, position: int) -> Example | Unreadable:
        index = self.order[position]
        try:
            return {"id": str(index)} | self.dataset[index] | {"position": position}
        except Exception as error:
            return Unreadable(self._name(index), _reason(error))

    def _name(self, index: int) -> str:
        """What to call an example, which may be too broken to have a name."""
        try:
            return self.dataset.name_of(index)
        except Exception:
            return f"example {index}"


def _reason(error: Exception) -> str:
    """What went wrong; an error that nobody foresaw with its kind and the line it came from."""
    if isinstance(error, ValueError | OSError):
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})"
