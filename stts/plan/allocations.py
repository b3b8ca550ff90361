"""Memory of tensors that have shapes and no values, as an allocator would count it."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROUND = 512
"""Bytes to which CUDA's allocator rounds a block."""
NO_KERNEL = {"detach", "alias", "empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"}


class Allocations(TorchDispatchMode):
    """Follows every storage of the meta device from its making to its end.

    label: of what is made from now on; mask_entries: how many entries of a mask of more than one dimension are True,
    where a model indexes with one.
    """

    def __init__(self, mask_entries: int = 0) -> None:
        super().__init__()
        self.mask_entries = mask_entries
        self.label = "activations"
        self.extra: Counter = Counter()
        """Bytes that no tensor here stands for, by label: what other processes' shares need."""
        self.held: Counter = Counter()
        """Bytes in use, by label."""
        self.at_peak: Counter = Counter()
        self.moved = 0
        """Bytes read and written by kernels that are no matrix product."""
        self.kernels = 0
        self._seen: dict[int, int] = {}

    @property
    def peak(self) -> int:
        return sum(self.at_peak.values())

    def start(self) -> None:
        """Forget the peak, and what was counted until now."""
        self.at_peak, self.moved, self.kernels = Counter(), 0, 0

    def look(self) -> None:
        """Remember this moment if it is the peak."""
        if sum(self.held.values()) + sum(self.extra.values()) > self.peak:
            self.at_peak = self.held + self.extra

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func._overloadpacket.__name__
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if name == "_local_scalar_dense" and args[0].device.type == "meta":
            return True if args[0].dtype == torch.bool else 1
        out = func(*self._indexed(name, args), **(kwargs or {}))
        known = {x.untyped_storage()._cdata for x in tensors}
        made = [x for x in tree_leaves(out) if isinstance(x, Tensor) and x.device.type == "meta"]
        made = [x for x in made if x.untyped_storage()._cdata not in known]
        for x in made:
            self._hold(x)
        if (made or func._schema.is_mutable) and name not in NO_KERNEL:
            self.kernels += 1
            if name not in ("mm", "addmm", "bmm"):
                self.moved += sum(x.numel() * x.element_size() for x in (*tensors, *made))
        return out

    def _indexed(self, name: str, args: tuple) -> tuple:
        """Arguments of indexing by mask with numbers in its place: how many are True, nobody can count here."""
        if name not in ("index", "index_put", "index_put_"):
            return args
        indices: list[Tensor | None] = []
        for index in args[1]:
            if index is None or index.dtype != torch.bool or index.device.type != "meta":
                indices.append(index)
                continue
            entries = index.numel() if index.dim() == 1 else self.mask_entries
            numbers = torch.empty(entries, dtype=torch.int64, device=index.device)
            indices.extend([numbers] * index.dim())
        return (args[0], indices, *args[2:])

    def _hold(self, x: Tensor) -> None:
        storage, label = x.untyped_storage(), self.label
        key, size = storage._cdata, -(-storage.nbytes() // ROUND) * ROUND
        if key in self._seen:
            return
        self._seen[key] = size
        self.held[label] += size
        self.look()

        def gone() -> None:
            self.held[label] -= self._seen.pop(key, 0)

        weakref.finalize(storage, gone)
