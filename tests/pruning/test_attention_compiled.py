"""Attention over ragged frames under torch.compile: one graph for batches of any size, none for each of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from stts.pruning.attention import ragged_attention
from stts.pruning.packing import Packing, plan_packing


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def batches() -> Iterator[tuple[Packing, list[Tensor]]]:
    """Of 2, 3, 5 and 7 frames of 12 patches."""
    torch.manual_seed(0)
    for frames in (2, 3, 5, 7):
        keep = torch.rand(frames, 12) < 0.6
        keep[0] = True
        kept = int(keep.sum())
        yield plan_packing(keep, kept), [torch.randn(2, kept, 8) for _ in range(3)]


def test_the_loop_of_a_cpu_is_not_unrolled_for_every_batch() -> None:
    def block(q: Tensor, k: Tensor, v: Tensor, packing: Packing) -> Tensor:
        return ragged_attention(q * 2, k, v, packing, 0.35, "loop") + 1

    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(block, dynamic=True, backend=counter)
    compiled_by_then = []
    for packing, tensors in batches():
        torch.testing.assert_close(compiled(*tensors, packing), block(*tensors, packing))
        compiled_by_then.append(counter.frame_count)
    assert len(set(compiled_by_then)) == 1  # what stands before the loop and what follows it


def test_the_varlen_kernel_is_part_of_one_graph() -> None:
    def block(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, shape: tuple[int, int]) -> Tensor:
        packing = Packing(cu_seqlens.long(), cu_seqlens, 0, shape)
        return ragged_attention(q * 2, k, v, packing, 0.35, "varlen") + 1

    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(block, dynamic=True, fullgraph=True, backend=counter)
    for packing, tensors in batches():
        on_meta = [x.to("meta", torch.bfloat16) for x in tensors]
        out = compiled(*on_meta, packing.cu_seqlens.to("meta"), (9, 12))
        assert out.shape == tensors[0].shape
    assert counter.frame_count == 1
