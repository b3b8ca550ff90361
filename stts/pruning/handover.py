"""Telling the attention of one block what to do beyond its arguments.

Layers hand some of their arguments on to the attention function that a config names (attention.install): a mask, or
any keyword. What a block should do travels there. So every call has its own: in threads, in compiled blocks, and
where checkpointing runs a block again. Layers that hand on nothing are told aside, through a variable of the thread.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

KEYWORD = "stts"


class _OfThread(threading.local):
    how: Any = None
    heard: bool = False


class _Compiled:
    how: Any = None


_thread = _OfThread()
_compiled = _Compiled()
"""What compiled blocks read instead, as a compiler takes a thread's own value for a constant. Blocks that are
compiled and told aside must therefore run in one thread at a time."""


@dataclass(frozen=True)
class Route:
    """How the attention of a block is reached: by its "mask", by a "keyword", "aside", or by the mask of
    "sdpa" itself."""

    kind: str
    place: int = 0
    """Where the mask stands among the arguments behind the hidden states."""

    @classmethod
    def of(cls, block: nn.Module) -> Route:
        """The route into a block, read off the signature of its class's forward."""
        parameters = inspect.signature(type(block).forward).parameters
        if "attention_mask" in parameters:
            return cls("mask", list(parameters).index("attention_mask") - 2)  # self, and the hidden states
        if "attn_mask" in parameters:
            return cls("sdpa")
        if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            return cls("keyword")
        return cls("aside")

    def call(self, block: Callable, x: Any, args: tuple, kwargs: dict[str, Any], how: Any) -> Any:
        """block(x, *args, **kwargs), its attention told `how`."""
        if self.kind == "aside":
            with aside(how):
                return block(x, *args, **kwargs)
        if self.kind == "sdpa":
            return block(x, *args, **kwargs | {"attn_mask": how.as_mask()})
        if self.kind == "keyword":
            return block(x, *args, **kwargs, **{KEYWORD: how})
        if self.place < len(args):
            return block(x, *args[: self.place], how, *args[self.place + 1 :], **kwargs)
        return block(x, *args, **kwargs | {"attention_mask": how})


def hear() -> None:
    """Called by attention that read what it was told. check_heard notices a block whose attention never does."""
    if not torch.compiler.is_compiling():
        _thread.heard = True


def check_heard(block: nn.Module) -> None:
    """Raises ValueError unless attention has listened since the last check. Compiled blocks are not checked."""
    heard, _thread.heard = _thread.heard, False
    if not heard and "forward" not in vars(block) and block._compiled_call_impl is None:
        raise ValueError(
            f"the attention of {type(block).__name__} did not listen: it has to go through transformers' attention "
            "interface, with the config of the vision model"
        )


def told_aside() -> Any:
    """What the block that is running was told aside, or None."""
    return _compiled.how if torch.compiler.is_compiling() else _thread.how


class aside:  # noqa: N801
    """A context, which may be entered again: blocks that run in it, in this thread, are told `how`."""

    def __init__(self, how: Any) -> None:
        self.how = how
        self._before: list[tuple[Any, Any]] = []

    def __enter__(self) -> None:
        self._before.append((_thread.how, _compiled.how))
        _thread.how = _compiled.how = self.how

    def __exit__(self, *error: object) -> None:
        _thread.how, _compiled.how = self._before.pop()


def carried() -> tuple[aside, aside]:
    """context_fn of torch's checkpoint: a block that runs again is told aside what it was told the first time."""
    return aside(_thread.how), aside(_thread.how)
