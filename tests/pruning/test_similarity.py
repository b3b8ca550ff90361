"""The similarity that keeps no copy of the features, against the plain formula and torch's own derivative."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from stts.pruning import similarity
from stts.pruning.similarity import neighbor_similarity
from stts.pruning.windows import to_windows


def plain(x: Tensor, pool_width: int, grid: tuple[int, int]) -> Tensor:
    windows = F.normalize(to_windows(x.float(), grid, pool_width).flatten(2), dim=-1, eps=1e-12)
    return (windows[1:] * windows[:-1]).sum(-1)


@pytest.mark.parametrize("frames", [1, 2, 16, 17, 35])  # pieces of 16
@pytest.mark.parametrize(("grid", "pool_width"), [((6, 6), 3), ((5, 4), 3), ((4, 6), 2)])
def test_equals_the_plain_formula_and_its_gradient(frames, grid, pool_width):
    torch.manual_seed(frames)
    x = torch.randn(frames, grid[0] * grid[1], 5, requires_grad=True)
    ours, wanted = neighbor_similarity(x, pool_width, grid), plain(x, pool_width, grid)
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-6)
    cotangent = torch.randn_like(wanted)
    gradients = [torch.autograd.grad(out, x, cotangent)[0] for out in (ours, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_half_precision_is_summed_in_float32():
    torch.manual_seed(0)
    x = torch.randn(4, 36, 64).bfloat16().requires_grad_()
    out = neighbor_similarity(x, 3, (6, 6))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, plain(x, 3, (6, 6)), rtol=1e-5, atol=1e-6)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert grad.dtype == torch.bfloat16
    (wanted,) = torch.autograd.grad(plain(x, 3, (6, 6)).sum(), x)
    torch.testing.assert_close(grad, wanted, rtol=1e-2, atol=1e-5)


def test_a_window_of_zeros_is_like_nothing():
    x = torch.randn(3, 9, 4)
    x[1] = 0
    assert neighbor_similarity(x.requires_grad_()).tolist() == [[0.0], [0.0]]


def test_the_backward_keeps_the_features_and_numbers_per_window():
    x = torch.randn(40, 36, 64, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        neighbor_similarity(x)
    beside = [t for t in kept if t.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()]
    assert len(beside) < len(kept)
    assert sum(t.numel() for t in beside) <= 2 * 40 * 4


def test_temporaries_are_of_so_many_frames_whatever_the_length(monkeypatch):
    """All operators of forward and backward, by the largest thing they make besides the gradient."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        floats = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and func.name() != "aten::empty_like" and not func.is_view:
                self.floats = max(self.floats, out.numel())
            return out

    monkeypatch.setattr(similarity, "FRAMES_AT_ONCE", 4)
    largest = []
    for frames in (12, 48):
        x = torch.randn(frames, 36, 64, requires_grad=True)
        with Largest() as seen:
            neighbor_similarity(x).sum().backward()
        largest.append(seen.floats)
    assert largest[0] == largest[1] <= 6 * 36 * 64
