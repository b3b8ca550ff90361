"""A host's blocks that answer to the pass they run in.

A host's own vision model loops over its ModuleList of blocks. That list becomes `Blocks`, which hands out its blocks
bound to the pass that is active in the thread. A plain Pass lets every block see every token, and keeps the outputs
of some; a Run (run.py) prunes.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Self

from torch import Tensor, nn

from .memory import Described


class _OfThread(threading.local):
    now: Pass | None = None


_thread = _OfThread()


def active_pass() -> Pass | None:
    """The pass that this thread is in."""
    return _thread.now


class Blocks(nn.ModuleList):
    """A host's blocks: a ModuleList that answers to the pass this thread is in, if the blocks belong to it."""

    def __iter__(self) -> Iterator[nn.Module]:
        now, blocks = _thread.now, super().__iter__()
        return blocks if now is None else (now.bind(block) for block in blocks)

    def __getitem__(self, index: int | slice) -> nn.Module:
        now, found = _thread.now, super().__getitem__(index)
        return found if now is None or isinstance(index, slice) else now.bind(found)


class Bound:
    """A block whose calls go through a pass. Everything else is the block's own."""

    def __init__(self, now: Pass, block: nn.Module) -> None:
        self._now, self._block = now, block

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self._now.step(self._block, x, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._block, name)


def to_dense(module: nn.Module, args: tuple, out: Any) -> Any:
    """Forward hook of a vision model whose tail is "vision": turns its outputs for survivors into dense tensors."""
    now = _thread.now
    if now is None or now.host.vision is not module:
        return out
    if isinstance(out, Tensor):
        return now.dense(out)
    out.last_hidden_state = now.dense(out.last_hidden_state)
    if out.get("hidden_states") is not None:
        out.hidden_states = tuple(None if x is None else now.dense(x) for x in out.hidden_states)
    return out


class Pass:
    """The state of one pass, in which every token runs to the end. It belongs to its caller: nothing of it stays on
    the model."""

    def __init__(self, host: Described, collect: Collection[int] = ()) -> None:
        """collect: the zero-based blocks whose outputs are wanted, in `collected`."""
        self.host = host
        self.number = {id(block): i for i, block in enumerate(nn.ModuleList.__iter__(host.blocks))}
        self.collected: dict[int, Tensor] = dict.fromkeys(collect)

    @contextmanager
    def active(self) -> Iterator[Self]:
        """While in this context, the host's blocks answer to this pass when this thread calls them."""
        before, _thread.now = _thread.now, self
        try:
            yield self
        finally:
            _thread.now = before

    def bind(self, block: nn.Module) -> nn.Module | Bound:
        return Bound(self, block) if id(block) in self.number else block

    def step(self, block: nn.Module, x: Tensor, args: tuple, kwargs: dict[str, Any]) -> Tensor:
        """Run one block."""
        x = block(x, *args, **kwargs)
        if (i := self.number[id(block)]) in self.collected:
            self.collected[i] = x
        return x

    def dense(self, x: Tensor) -> Tensor:
        """A block's output for all tokens."""
        return x

    def of_kept(self, patches: Tensor) -> Tensor:
        """The patches that kept windows read: (K, n), their places in `collected`.

        patches: (all windows, n), the patches that each window reads, by their place among all; -1: none.
        """
        return patches
