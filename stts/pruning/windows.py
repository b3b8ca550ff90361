"""Window geometry: a patch grid cut into p x p windows, and the step from a frame to the one before it.

Patches are row-major in the grid, windows row-major in the window grid, patches row-major inside a window. A
grid that p does not divide is padded half before and half after, the odd row or column last; padding has
index -1 and zero features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

Grid = tuple[int, int]


def square_grid(num_patches: int) -> Grid:
    """The h x w grid of a square frame. Raises ValueError when num_patches is not a square number."""
    side = math.isqrt(num_patches)
    if side * side != num_patches:
        raise ValueError(f"{num_patches} patches are not a square grid; pass grid=(rows, columns)")
    return side, side


def window_grid(grid: Grid, pool_width: int) -> Grid:
    """Rows and columns of windows over a grid of patches, padding included."""
    return math.ceil(grid[0] / pool_width), math.ceil(grid[1] / pool_width)


def resolve_grid(num_patches: int, grid: Grid | None) -> Grid:
    """The grid given, checked against the number of patches, or the square one."""
    if grid is None:
        return square_grid(num_patches)
    if grid[0] * grid[1] != num_patches:
        raise ValueError(f"grid is {grid[0]} x {grid[1]}, must hold {num_patches} patches")
    return tuple(grid)


def resolve_window_grid(num_windows: int, pool_width: int, grid: Grid | None) -> Grid:
    """The patch grid behind num_windows windows: the one given, checked, or a square of whole windows."""
    if grid is None:
        side = square_grid(num_windows)[0] * pool_width
        return side, side
    rows, cols = window_grid(grid, pool_width)
    if rows * cols != num_windows:
        raise ValueError(
            f"grid {grid[0]} x {grid[1]} has {rows * cols} windows of {pool_width}, got {num_windows}"
        )
    return tuple(grid)


@cache
def _window_index(grid: Grid, pool_width: int) -> Tensor:
    index = torch.arange(grid[0] * grid[1]).view(1, 1, *grid)
    index = F.pad(index, _padding(grid, pool_width), value=-1)[0, 0]
    return rearrange(index, "(r p) (c q) -> (r c) (p q)", p=pool_width, q=pool_width)


def window_index(grid: Grid, pool_width: int) -> Tensor:
    """Patches of each window: (W, p * p) int64 on the CPU, -1 where the grid was padded."""
    return _window_index(tuple(grid), pool_width).clone()


def _padding(grid: Grid, p: int) -> tuple[int, int, int, int]:
    extra_rows, extra_cols = -grid[0] % p, -grid[1] % p
    return extra_cols // 2, (extra_cols + 1) // 2, extra_rows // 2, (extra_rows + 1) // 2


def to_windows(x: Tensor, grid: Grid, pool_width: int) -> Tensor:
    """Group patches by window: (F, N, D) -> (F, W, p * p, D), zeros where the grid was padded."""
    x = rearrange(x, "f (h w) d -> f h w d", h=grid[0])
    x = F.pad(x, (0, 0, *_padding(grid, pool_width)))
    return rearrange(x, "f (r p) (c q) d -> f (r c) (p q) d", p=pool_width, q=pool_width)


def from_windows(x: Tensor, grid: Grid, pool_width: int) -> Tensor:
    """Inverse of to_windows: (F, W, p * p, D) -> (F, N, D), what stands in the padding left out."""
    rows, _ = window_grid(grid, pool_width)
    x = rearrange(x, "f (r c) (p q) d -> f (r p) (c q) d", r=rows, p=pool_width)
    left, _, top, _ = _padding(grid, pool_width)
    return rearrange(x[:, top : top + grid[0], left : left + grid[1]], "f h w d -> f (h w) d")


def spread(x: Tensor, grid: Grid, pool_width: int) -> Tensor:
    """Give every patch the value of its window: (F, W) -> (F, N)."""
    rows, _ = window_grid(grid, pool_width)
    x = rearrange(x, "f (r c) -> f r c", r=rows)
    x = x.repeat_interleave(pool_width, 1).repeat_interleave(pool_width, 2)
    left, _, top, _ = _padding(grid, pool_width)
    return rearrange(x[:, top : top + grid[0], left : left + grid[1]], "f h w -> f (h w)")


def check_frames(num_frames: int, frames_per_video: Sequence[int]) -> None:
    """Raises ValueError unless frames_per_video are positive and sum to num_frames."""
    if sum(frames_per_video) != num_frames or any(t < 1 for t in frames_per_video):
        raise ValueError(
            f"frames_per_video is {list(frames_per_video)}, must be positive and sum to the {num_frames} frames given"
        )


def first_frames(frames_per_video: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """(F,) bool, True on the first frame of each video."""
    first = torch.zeros(sum(frames_per_video), dtype=torch.bool)
    start = 0
    for frames in frames_per_video:
        first[start] = True
        start += frames
    return first.to(device, non_blocking=True)


def previous_frame(x: Tensor, frames_per_video: Sequence[int]) -> Tensor:
    """The same place one frame earlier: (F, ...) -> (F, ...), zeros on the first frame of each video."""
    first = first_frames(frames_per_video, x.device).view(-1, *[1] * (x.ndim - 1))
    return x.roll(1, 0).masked_fill(first, 0)
