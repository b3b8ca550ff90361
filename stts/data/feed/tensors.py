"""The tensors of a batch, wherever they lie in it: of videos whose grids differ it holds lists, a tensor a video."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def each_tensor(batch: dict[str, Any], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """The batch with every tensor changed, those in lists, too; the rest as it is."""

    def changed(value: Any) -> Any:
        if isinstance(value, list) and value and all(isinstance(x, Tensor) for x in value):
            return [change(x) for x in value]
        return change(value) if isinstance(value, Tensor) else value

    return {name: changed(value) for name, value in batch.items()}
