"""Running a model on the meta device as a GPU would run it: mixed precision, and attention without L x L tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import transformers.masking_utils
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import stts.pruning.attention
import stts.pruning.flex

from ..pruning.handover import carried

IN_HALF = {
    F.linear,
    torch.matmul,
    torch.bmm,
    torch.mm,
    torch.addmm,
    torch.baddbmm,
    Tensor.matmul,
    Tensor.__matmul__,
}
IN_FLOAT = {
    F.layer_norm,
    F.softmax,
    F.log_softmax,
    torch.softmax,
    Tensor.softmax,
    torch.pow,
    Tensor.pow,
    torch.rsqrt,
}
IN_FLOAT |= {torch.exp, Tensor.exp, torch.log, Tensor.log, torch.sum, Tensor.sum, torch.cumsum, Tensor.cumsum}
IN_FLOAT |= {F.cosine_similarity, F.mse_loss, F.nll_loss, Tensor.norm, torch.norm}


class Autocast(TorchFunctionMode):
    """bfloat16 where CUDA's autocast takes it, float32 where that does, which the meta device knows nothing of."""

    def __init__(self, frames: int = 0, windows: int = 0) -> None:
        """frames: what is found where a model counts those in its batch that are not all zero; windows: where it
        counts those of a video."""
        super().__init__()
        self.enabled, self.frames, self.windows = True, frames, windows
        self.copies: dict[int, Tensor] = {}
        """Of weights, kept to the end of the forward pass."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.tolist and args[0].is_meta:
            return [self.frames] * len(args[0])
        if func is Tensor.__int__ and args[0].is_meta:
            return self.windows
        if self.enabled and func in IN_HALF:
            args = tuple(self._half(x) for x in args)
            kwargs = {name: self._half(x) for name, x in kwargs.items()}
        elif self.enabled and func in IN_FLOAT:
            args = tuple(self._float(x) for x in args)
        return func(*args, **kwargs)

    def _half(self, x: Any) -> Any:
        if not isinstance(x, Tensor) or x.dtype != torch.float32:
            return x
        if not (x.is_leaf and x.requires_grad):
            return x.to(torch.bfloat16)
        if id(x) not in self.copies:
            self.copies[id(x)] = x.to(torch.bfloat16)
        return self.copies[id(x)]

    @staticmethod
    def _float(x: Any) -> Any:
        return x.float() if isinstance(x, Tensor) and x.dtype == torch.bfloat16 else x

    def once_more(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        """context_fn of a checkpoint: what is run again in the backward pass, where no mode reaches, runs in this,
        told what it was told before."""
        first, told = carried()
        return first, self._again(told)

    @contextmanager
    def _again(self, told: AbstractContextManager) -> Iterator[None]:
        with told, Autocast(self.frames, self.windows):
            yield

    @contextmanager
    def context(self, *args: Any, enabled: bool = True, **kwargs: Any) -> Iterator[None]:
        """In place of torch.autocast, which is entered to leave mixed precision for a while."""
        before, self.enabled = self.enabled, self.enabled and enabled
        try:
            yield
        finally:
            self.enabled = before


class Attention(torch.autograd.Function):
    """What fused attention keeps and makes: queries, keys, values, its result, and a float a query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(map(torch.empty_like, ctx.saved_tensors[:3]))


def _attend(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    half = torch.bfloat16
    return Attention.apply(query.to(half), key.to(half), value.to(half))


def _varlen(query: Tensor, key: Tensor, value: Tensor, *args: Any) -> Tensor:
    laid = (x.to(torch.bfloat16).transpose(0, 1).contiguous() for x in (query, key, value))
    return Attention.apply(*laid).transpose(0, 1)


@contextmanager
def pretended(frames: int, windows: int) -> Iterator[Autocast]:
    """Within it the meta device is a GPU in mixed precision. frames: of a batch; windows: of a video."""
    autocast = Autocast(frames, windows)
    with ExitStack() as stack:
        for owner, name, ours in (
            (torch, "autocast", autocast.context),
            (F, "scaled_dot_product_attention", _attend),
            (stts.pruning.flex, "compile_friendly_flex_attention", _attend),
            (transformers.masking_utils, "_ignore_causal_mask_sdpa", lambda *args, **kwargs: True),
        ):
            stack.enter_context(patch.object(owner, name, ours))
        stack.enter_context(patch.dict(stts.pruning.attention._BACKENDS, varlen=_varlen))
        stack.enter_context(patch.dict("os.environ", TRANSFORMERS_DISABLE_TORCH_CHECK="1"))
        stack.enter_context(autocast)
        yield autocast
