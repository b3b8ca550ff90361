"""Where the patches of a batch lie in a ViT's memory. Videos of one patch grid are taken together.

To the scorer, the policies and the bias the videos of one grid are (F, N, D), whatever order memory has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .selection import num_dropped
from .windows import Grid, spread, window_grid, window_index


@dataclass(frozen=True)
class Clips:
    """The videos of a batch, in the order of their placeholders, as plain integers."""

    frames: tuple[int, ...]
    """T of each video: frames as the ViT knows them (Qwen's are units of two)."""
    grids: tuple[Grid, ...]
    """Rows and columns of patches of each video's frames."""
    unit: int
    """Side of a window in patches: what one LLM token reads."""

    @property
    def windows(self) -> tuple[int, ...]:
        """W of each video."""
        sizes = (window_grid(grid, self.unit) for grid in self.grids)
        return tuple(rows * cols for rows, cols in sizes)

    def drops(self, prune_ratio: float) -> list[int]:
        """Windows each video loses."""
        videos = zip(self.frames, self.windows, strict=True)
        return [num_dropped(frames, windows, prune_ratio) for frames, windows in videos]


class Described(Protocol):
    """What a run asks of a host (stts.hosts.base.Host)."""

    num_prefix: int
    tail: str

    @property
    def vision(self) -> nn.Module: ...
    @property
    def blocks(self) -> Sequence[nn.Module]: ...
    def cells(self, grid: Grid) -> Tensor: ...
    def frame_tokens(self, grid: Grid) -> int: ...
    def for_survivors(self, kwargs: dict[str, Any], index: Tensor) -> dict[str, Any]: ...


@dataclass
class Group:
    """The videos of one patch grid, scored together: F frames of N cells."""

    videos: list[int]
    frames: list[int]
    grid: Grid
    patches: Tensor | None
    """(F, n) place in memory of each patch that some window reads. None: behind each frame's prefix memory holds just
    these."""
    inverse: Tensor
    """(N,) number among the n patches of each cell: cells may share a patch."""
    first: Tensor
    """(n,) the first cell of each patch."""
    starts: Tensor
    """(F,) place in memory of each frame, on the CPU."""
    size: int
    """Tokens of a frame."""
    run: list[int] | None = None
    """Policy "uniform": the frames that run, of the F."""
    keep: Tensor | None = None
    """(F, W) bool. None until the run has decided, like scores (F, W) and scored (F, N, D)."""
    scores: Tensor | None = None
    scored: Tensor | None = None
    owner: Tensor | None = None
    """(F * W,) policy "tome": the window each merges into."""
    ran: Tensor | None = None
    targets: Tensor | None = None
    """(F, W) each: which windows ran to the end, and the targets of the auxiliary loss. None until asked for."""

    @property
    def shared(self) -> bool:
        """Whether some patch is read by several windows."""
        return len(self.inverse) > len(self.first)

    def take(self, tokens: Tensor, prefix: int) -> Tensor:
        """(S, D) all tokens -> (F, N, D) cells."""
        if self.patches is None:
            return tokens.view(sum(self.frames), -1, tokens.shape[-1])[:, prefix:]
        return tokens[self.patches[:, self.inverse]]

    def put(self, tokens: Tensor, values: Tensor, prefix: int) -> Tensor:
        """A copy of tokens, (S, ...), in which patches have the values given by cell, (F, N, ...)."""
        if self.patches is None:
            before = tokens.unflatten(0, (sum(self.frames), -1))[:, :prefix]
            return torch.cat([before, values.to(tokens)], 1).flatten(0, 1) if prefix else values.flatten(0, 1)
        values = values[:, self.first].flatten(0, 1)
        return tokens.index_copy(0, self.patches.flatten(), values.to(tokens))

    def kept_cells(self, unit: int) -> Tensor:
        """(F, N) bool: a patch stays if any window that reads it does."""
        cells = spread(self.keep, self.grid, unit)
        if not self.shared:
            return cells
        kept = torch.zeros(len(cells), len(self.first), dtype=torch.uint8, device=cells.device)
        kept = kept.scatter_reduce(1, self.inverse.expand_as(cells), cells.byte(), "amax")
        return kept.bool()[:, self.inverse]

    def count(self, unit: int, prune_ratio: float) -> tuple[int, int]:
        """An upper bound on the tokens kept of frames that run, and by how many it may be too high."""
        frames, windows = sum(self.frames), self.keep.shape[1]
        kept = frames * windows - sum(num_dropped(t, windows, prune_ratio) for t in self.frames)
        width, read = unit**2, len(self.first)
        run = frames if self.run is None else len(self.run)
        most = min(kept * width, run * read) + run * (self.size - read)
        return most, run * (windows * width - read)  # padded cells hold no patch, shared ones one for several

    def windows_of(self, tokens: Tensor, unit: int, prefix: int) -> Tensor:
        """(S,) a value of every token -> (F, W) of every window: that of one of its patches."""
        cells = self.take(tokens[:, None], prefix)[..., 0]
        return cells[:, window_index(self.grid, unit).amax(1).to(cells.device, non_blocking=True)]


def grouped(host: Described, clips: Clips, device: torch.device) -> list[Group]:
    """The videos by patch grid, in the order in which grids come."""
    sizes = [host.num_prefix + host.frame_tokens(grid) for grid in clips.grids]
    starts, start = [], 0
    for frames, size in zip(clips.frames, sizes, strict=True):
        starts.append(start + size * torch.arange(frames))
        start += frames * size
    groups = []
    for grid in dict.fromkeys(clips.grids):
        videos = [v for v, other in enumerate(clips.grids) if other == grid]
        cells, size = host.cells(grid), host.frame_tokens(grid)
        read, inverse = cells.unique(return_inverse=True)
        numbers = torch.arange(len(cells))
        first = torch.full_like(read, len(cells)).scatter_reduce(0, inverse, numbers, "amin")
        begin, patches = torch.cat([starts[v] for v in videos]), None
        if len(videos) < len(clips.grids) or len(cells) != size or not torch.equal(cells, numbers):
            patches = (begin[:, None] + host.num_prefix + read).to(device, non_blocking=True)
        index = (x.to(device, non_blocking=True) for x in (inverse, first))
        frames = [clips.frames[v] for v in videos]
        groups.append(Group(videos, frames, grid, patches, *index, begin, host.num_prefix + size))
    return groups
