"""To be imported before torch: a CPU build of torch whose "cuda" has shapes and no values, under FakeTensorMode.

What runs is the real thing: every line of the library, of transformers, accelerate and FSDP2, autograd, autocast.
Made up are streams, the choice among SDPA's kernels (after torch's sdp_utils.cpp) with those limits of theirs that
have mattered, and the compiled flex kernel, of which there is only its outside.
"""

from __future__ import annotations

import ctypes
import os
from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

ctypes.CDLL(os.environ["FAKE_CUDA"], ctypes.RTLD_GLOBAL)

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch._subclasses import fake_impls, fake_tensor  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

CHOSEN: Counter = Counter()
"""Kernels of attention that were called."""
HALF = (torch.bfloat16, torch.float16)


class Stream:
    """Of which there is one."""

    device, stream_id = torch.device("cuda", 0), 0

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def wait_stream(self, stream: Stream) -> None: ...
    def wait_event(self, event: Any) -> None: ...
    def synchronize(self) -> None: ...
    def record_event(self, event: Any = None) -> Any:
        return event or Event()

    def query(self) -> bool:
        return True

    def is_capturing(self) -> bool:
        return False


class Event:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def record(self, *args: Any) -> Event:
        return self

    def wait(self, *args: Any) -> None: ...
    def synchronize(self) -> None: ...
    def query(self) -> bool:
        return True


def pretend() -> None:
    """Make torch say what it would say on a machine with one GPU."""
    stream, properties = Stream(), SimpleNamespace(name="fake", major=9, minor=0, total_memory=80 * 10**9)
    answers = {
        "is_available": True,
        "is_bf16_supported": True,
        "device_count": 1,
        "current_device": 0,
        "current_stream": stream,
        "default_stream": stream,
        "get_device_properties": properties,
        "get_device_capability": (9, 0),
        "get_device_name": "fake",
        "memory_allocated": 0,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *args, answer=answer, **kwargs: answer)
    for name in ("set_device", "synchronize", "empty_cache", "manual_seed", "manual_seed_all", "_lazy_init"):
        setattr(torch.cuda, name, lambda *args, **kwargs: None)
    torch.cuda.Stream, torch.cuda.Event = Stream, Event
    torch.cuda.stream = lambda stream: nullcontext()
    torch.cuda.get_rng_state = lambda device=None: torch.zeros(16, dtype=torch.uint8)
    torch.cuda.set_rng_state = lambda state, device=None: None
    torch.cuda.set_rng_state_all = lambda states: None
    torch.cuda.get_rng_state_all = lambda: []
    torch.accelerator.current_stream = lambda device=None: stream
    FakeTensorMode.avoid_device_init = property(lambda self: True)
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") is made on the CPU first
    torch.nn.Module.to = to
    fake_tensor.CONSTANT_NUMEL_LIMIT = 4096  # lists of sizes that the host makes keep their values
    fake_impls.op_implementations_dict[torch.ops.aten.equal.default] = lambda mode, func, a, b: (
        a.shape == b.shape
    )


_to, _sdpa = torch.nn.Module.to, F.scaled_dot_product_attention


def to(self: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
    """Parameters without values cannot be swapped; models are made on the device they are asked to move to."""
    if args and all(p.device.type == torch.device(args[0]).type for p in self.parameters()):
        return self
    return _to(self, *args, **kwargs)


def sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The kernel that CUDA would take, as its shape function; refuses what that kernel cannot do."""
    if q.device.type != "cuda":
        return _sdpa(q, k, v, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if torch.is_autocast_enabled("cuda"):
        q, k, v = (x.to(torch.get_autocast_dtype("cuda")) for x in (q, k, v))
    if not q.dtype == k.dtype == v.dtype:
        raise RuntimeError(f"query, key and value are {q.dtype}, {k.dtype} and {v.dtype}")
    if attn_mask is not None and attn_mask.device != q.device:
        raise RuntimeError(f"the mask is on {attn_mask.device}")
    if q.shape[1] != k.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    learns, width = any(x.requires_grad for x in (q, k, v)), q.shape[-1]
    if q.shape[0] * q.shape[1] * 128 * 96 >= 2**31 and q.shape[2] == 1 and learns:
        raise RuntimeError(f"{q.shape[0]} single queries of {q.shape[1]} heads: more than a kernel can count")
    if q.dtype in HALF and attn_mask is None:
        CHOSEN["flash"] += 1
        q, k, v = (F.pad(x, (0, -width % 8)) for x in (q, k, v))
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        return flash(q, k, v, dropout_p, is_causal, False, scale=scale)[0][..., :width]
    CHOSEN["efficient"] += 1
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill(~attn_mask, -torch.inf)
        attn_mask = attn_mask.expand(*q.shape[:3], k.shape[2])
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    return efficient(q, k, v, attn_mask, learns, dropout_p, is_causal, scale=scale)[0]


F.scaled_dot_product_attention = torch.nn.functional.scaled_dot_product_attention = sdpa


@torch.library.custom_op("dry::flex", mutates_args=())
def flex_forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    raise NotImplementedError


@torch.library.custom_op("dry::flex_backward", mutates_args=())
def flex_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    raise NotImplementedError


flex_forward.register_fake(
    lambda q, k, v: (torch.empty_like(q), q.new_empty(q.shape[:-1], dtype=torch.float32))
)
flex_backward.register_fake(lambda grad, q, k, v, out, lse: tuple(map(torch.empty_like, (q, k, v))))
flex_forward.register_autograd(
    lambda ctx, grad, _: torch.ops.dry.flex_backward(grad, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs, *output),
)


def flex(q: Tensor, k: Tensor, v: Tensor, training: bool, block_mask: Any, **kwargs: Any) -> Tensor:
    """The outside of compiled flex attention."""
    if not q.dtype == k.dtype == v.dtype:
        raise RuntimeError(f"query, key and value are {q.dtype}, {k.dtype} and {v.dtype}")
    elsewhere = {x.device for x in block_mask.as_tuple() if isinstance(x, Tensor)} - {q.device}
    if elsewhere:
        raise RuntimeError(f"the block mask is on {elsewhere}")
    CHOSEN["flex"] += 1
    return torch.ops.dry.flex(q, k, v)[0]


class Waits(TorchDispatchMode):
    """Lists what makes the host wait for a GPU, and the line of the library or of transformers that asks for it."""

    READS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name = func._overloadpacket.__name__
        devices = [x.device.type for x in tree_leaves(args) if isinstance(x, Tensor)]
        by_mask = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        across = name == "copy_" and len(set(devices)) > 1
        if name == "_to_copy" and kwargs.get("device") is not None:
            across = torch.device(kwargs["device"]).type != devices[0]
        waits = across and not (kwargs.get("non_blocking") or (name == "copy_" and args[2:3] == (True,)))
        if waits or ((name in self.READS or by_mask) and "cuda" in devices):
            self.found.append(f"{name} at {asked_by()}")
        return func(*args, **kwargs)


WAITS = Waits()


def asked_by() -> str:
    import traceback

    for frame in reversed(traceback.extract_stack()):
        for package in ("/stts/", "/transformers/", "/accelerate/"):
            if package in frame.filename:
                return f"{frame.filename.rpartition(package)[2]}:{frame.lineno}"
    return "?"


def answer_masks(entries: int) -> None:
    """Let masks be indexed with: those of one dimension are taken to be all True, others to have so many entries."""

    def nonzero(mode: FakeTensorMode, func: Any, x: Tensor) -> Tensor:
        found = x.numel() if x.dim() == 1 else entries
        meta = torch.empty(found, x.dim(), dtype=torch.int64, device="meta")
        return FakeTensor(mode, meta, x.device)

    fake_impls.op_implementations_dict[torch.ops.aten.nonzero.default] = nonzero


def answer_reads(after: int, number: int = 1) -> None:
    """Let values be asked for, as evaluation and generation do: numbers are this one, conditions are True from one
    on."""
    asked = Counter()

    def read(mode: FakeTensorMode, func: Any, x: Tensor) -> float | int | bool:
        asked[x.dtype] += 1
        return asked[x.dtype] > after if x.dtype == torch.bool else number

    fake_impls.op_implementations_dict[torch.ops.aten._local_scalar_dense.default] = read


pretend()
