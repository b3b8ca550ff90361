"""What tensors of the fake device take: every storage from its making to its end, resized by FSDP2 in between."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROUND = 512
"""Bytes to which CUDA's allocator rounds a block."""


class Memory(TorchDispatchMode):
    """now, and the peak since start(), in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.sizes: dict[int, int] = {}

    def start(self) -> None:
        self.peak = self.now

    def __enter__(self) -> Memory:
        self.resize = torch.UntypedStorage.resize_

        def resize(storage: torch.UntypedStorage, size: int) -> Any:
            done = self.resize(storage, size)
            if storage._cdata in self.sizes:
                self.set(storage._cdata, storage.nbytes())
            return done

        torch.UntypedStorage.resize_ = resize
        return super().__enter__()

    def __exit__(self, *args: Any) -> None:
        torch.UntypedStorage.resize_ = self.resize
        return super().__exit__(*args)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if any(kind.__name__ == "DTensor" for kind in types):
            return NotImplemented  # it comes back with the tensors of this rank
        out = func(*args, **kwargs or {})
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and x.device.type == "cuda":
                self.hold(x.untyped_storage())
        return out

    def hold(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.sizes:
            self.set(key, storage.nbytes())
            weakref.finalize(storage, self.drop, key)

    def set(self, key: int, size: int) -> None:
        size = -(-size // ROUND) * ROUND
        self.now += size - self.sizes.get(key, 0)
        self.sizes[key] = size
        self.peak = max(self.peak, self.now)

    def drop(self, key: int) -> None:
        self.now -= self.sizes.pop(key, 0)
