"""One pruned pass through a host's own vision model: its loop over blocks stays as it is, its blocks do not.

Blocks up to insert_after see every patch. The next one does, too, with the scores as a key bias. All later ones see
survivors, which attend to the survivors that the host lets them see. Policy "uniform" runs on fewer frames from the
start.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import KeyBias, Ragged
from .blocks import Pass
from .config import STTSConfig
from .deciding import decide
from .handover import Route, check_heard
from .memory import Clips, Described, Group
from .merging import merge, merged_sizes
from .packing import Packing, pack, plan_packing, put_back_lone_frames
from .policies import kept_evenly
from .scorer import STTSScorer


class Run(Pass):
    """The state of one pruned pass."""

    def __init__(
        self,
        host: Described,
        clips: Clips,
        config: STTSConfig,
        scorer: STTSScorer,
        window_scores: Tensor | Sequence[Tensor] | None = None,
        collect: Collection[int] = (),
    ) -> None:
        """config.pool_width is the clips' unit. window_scores: for policy "given", (F, W), or (T, W) of each video;
        collect: the zero-based blocks whose outputs are wanted of kept tokens, in `collected`.

        Raises ValueError for a policy that drops nothing in a vision model, and for settings that do not go with how
        the host lays out its patches.
        """
        if config.stage not in ("frames", "vit"):
            raise ValueError(
                f"policy is {config.policy!r}, which drops nothing in a vision model: its place is {config.stage}"
            )
        if len(set(clips.grids)) > 1 and config.put_back:
            raise ValueError("put_back is True, must be False where videos have frames of different sizes")
        # collected: (K, D) each; all tokens' until the prune, so none is held for nothing
        super().__init__(host, collect)
        self.clips, self.config, self.scorer = clips, config, scorer
        self.window_scores = window_scores
        self.route = Route.of(next(nn.ModuleList.__iter__(host.blocks)))
        self.biased = config.insert_after + 1
        whole = config.stage == "frames"
        self.decides, self.first = (0, 0) if whole else (self.biased, self.biased + 1)
        self.groups: list[Group] = []
        self._ragged: dict[tuple[int, bool], tuple[Any, Ragged]] = {}

    def step(self, block: nn.Module, x: Tensor, args: tuple, kwargs: dict[str, Any]) -> Tensor:
        """Run one block as its place asks: dense, scored and biased, or on survivors."""
        i = self.number[id(block)]
        if i == 0:
            self._begin(x)
        if i == self.decides:
            self._decide(x.reshape(-1, x.shape[-1]))
        if i == self.first:
            x = self._survivors(x)
        kwargs, how = self._attention(i, kwargs)
        if how is None:
            x = block(x, *args, **kwargs)
        else:
            x = self.route.call(block, x, args, kwargs, how)
            check_heard(block)
        if i in self.collected:
            self.collected[i] = x
        if i >= self.decides:
            self._collect(i)
        return self.dense(x) if self.host.tail == "blocks" and i == len(self.number) - 1 else x

    def _begin(self, x: Tensor) -> None:
        self.shape, self.device = x.shape[:-1], x.device
        sizes = [self.host.num_prefix + self.host.frame_tokens(grid) for grid in self.clips.grids]
        expected = sum(t * size for t, size in zip(self.clips.frames, sizes, strict=True))
        if self.shape.numel() != expected:
            raise ValueError(
                f"the vision model got {self.shape.numel()} tokens, but videos of {list(self.clips.frames)} frames "
                f"of {[tuple(grid) for grid in self.clips.grids]} patches have {expected}: frames_per_video or grids "
                "do not fit the pixels"
            )

    def _decide(self, tokens: Tensor) -> None:
        """Which windows stay, and where the survivors are. tokens: (S, D), all, as they lie in memory."""
        rounds = len(self.number) - self.biased - 1
        asked = (self.host, self.clips, self.config, self.scorer, self.window_scores)
        found = decide(*asked, rounds, tokens)
        self.groups, self.key_bias = found.groups, found.key_bias
        self._pack(self._whole_frames(found.keep))

    # ------------------------------------------------------------------ where survivors are

    def _whole_frames(self, keep: Tensor) -> Tensor:
        """Policy "uniform": a frame that keeps a window runs whole, others not at all."""
        self.kept_tokens = keep
        if self.config.stage != "frames":
            return keep
        runs = torch.zeros_like(keep)
        for group in self.groups:
            kept_of = kept_evenly(group.frames, group.keep.shape[1], self.config.prune_ratio)
            group.run = [frame for frame, kept in enumerate(kept_of) if kept]
            places = group.starts[group.run][:, None] + torch.arange(group.size)
            runs = runs.index_fill(0, places.flatten().to(keep.device, non_blocking=True), True)
        self.kept_tokens = keep & runs
        return runs

    def _pack(self, keep: Tensor) -> None:
        """Plan the survivors' places, at most as many as _count says, so that nothing is read from the device."""
        count, filler = self._count()
        order = keep.logical_not().byte().argsort(stable=True)
        self.running = keep
        self.before = F.pad(keep.cumsum(0), (1, 0))  # survivors before each token
        self.index, self.filler = order[:count], filler
        if self.config.put_back:
            (group,) = self.groups
            ends = F.pad(self.before[:: group.size], (0, 1), value=count).int()
            shape = (sum(group.frames), group.size)
            packing = put_back_lone_frames(Packing(self.index, ends, filler, shape))
            self.running = torch.zeros_like(keep).index_fill(0, packing.index, True)
            self.index, self.filler = packing.index, packing.filler
            self.before = F.pad(self.running.cumsum(0), (1, 0))

    def _count(self) -> tuple[int, int]:
        """An upper bound on the tokens that run on, and by how many it may be too high."""
        if self.config.stage == "frames":
            return sum(len(group.run) * group.size for group in self.groups), 0
        counts = [group.count(self.clips.unit, self.config.prune_ratio) for group in self.groups]
        return sum(most for most, _ in counts), sum(filler for _, filler in counts)

    def _survivors(self, x: Tensor) -> Tensor:
        """The input of the first block that sees survivors alone."""
        if self.config.stage == "frames" and len(self.shape) == 2 and self.shape[0] > 1:
            return self._frames_that_run(x)
        x = self._merged(x).reshape(-1, x.shape[-1]).index_select(0, self.index)
        return x if len(self.shape) == 1 else x[None]

    def _frames_that_run(self, x: Tensor) -> Tensor:
        """(F, ...) -> those that policy "uniform" runs whole."""
        return x.index_select(0, torch.tensor(self.groups[0].run).to(x.device, non_blocking=True))

    def _of_frames(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """A block's keywords; those with an entry for every token are cut to the frames that run."""

        def pick(x: Any) -> Any:
            return self._frames_that_run(x) if isinstance(x, Tensor) and x.shape[:2] == self.shape else x

        return {name: tuple(map(pick, x)) if isinstance(x, tuple) else pick(x) for name, x in kwargs.items()}

    def _merged(self, x: Tensor) -> Tensor:
        """Policy "tome": windows that stay hold the means of those merged into them."""
        if self.config.policy != "tome":
            return x
        prefix, tokens = self.host.num_prefix, x.reshape(-1, x.shape[-1])
        for group in self.groups:
            cells = merge(group.take(tokens, prefix), group.owner, group.grid, self.clips.unit)
            tokens = group.put(tokens, cells, prefix)
        return tokens.view(x.shape)

    def _log_sizes(self) -> Tensor | None:
        """(K,) policy "tome": log of how many tokens each survivor stands for."""
        if self.config.policy != "tome":
            return None
        sizes = torch.ones_like(self.before[1:], dtype=torch.float32)
        for group in self.groups:
            shape = group.scored.shape[:2]
            cells = merged_sizes(group.owner, shape, group.grid, self.clips.unit)
            sizes = group.put(sizes, cells, self.host.num_prefix)
        return sizes[self.index].log()

    def dense(self, x: Tensor) -> Tensor:
        """Survivors (K, D) -> all tokens, shaped as the host has them, 0 where one was dropped. Other x as they
        are."""
        rows = x.shape[:-1].numel()
        if rows == self.shape.numel():
            return self._merged(x)
        if rows != len(self.index):
            return x
        flat = x.new_zeros(self.shape.numel(), x.shape[-1])
        return flat.index_copy(0, self.index, x.flatten(0, -2)).view(*self.shape, -1)

    # ------------------------------------------------------------------ attention

    def _attention(self, i: int, kwargs: dict[str, Any]) -> tuple[dict[str, Any], KeyBias | Ragged | None]:
        """A block's keywords, and what to tell its attention."""
        survivors, flat = i >= self.first, "cu_seqlens" in kwargs
        bias = self.key_bias if i == self.decides and self.config.stage == "vit" else None
        if not flat and (not survivors or self.config.stage == "frames"):
            kwargs = self._of_frames(kwargs) if survivors else kwargs
            # not a view of all tokens' bias: a compiler would take its sizes for unrelated ones
            return kwargs, None if bias is None else KeyBias(bias.view(self.shape).clone())
        kwargs = dict(kwargs)
        cu_seqlens, max_seqlen = kwargs.get("cu_seqlens"), kwargs.get("max_seqlen")
        ragged = self._segments(cu_seqlens, max_seqlen, survivors)
        if bias is not None:
            ragged = Ragged(ragged.packing, ragged.backend, bias)
        if flat:  # one call, whose segments are ours: nobody reads lengths back from the device
            count = len(ragged.packing.index)
            kwargs |= {"cu_seqlens": torch.tensor([0, count], dtype=torch.int32), "max_seqlen": count}
        return self.host.for_survivors(kwargs, self.index) if survivors else kwargs, ragged

    def _segments(self, cu_seqlens: Tensor | None, max_seqlen: int | None, survivors: bool) -> Ragged:
        """The segments that a block attends within, from those that the host gave it, over all tokens or the
        survivors."""
        key = (id(cu_seqlens), survivors)
        if key not in self._ragged:
            packing = self._packing(cu_seqlens, max_seqlen, survivors)
            log_sizes = self._log_sizes() if survivors else None
            self._ragged[key] = cu_seqlens, Ragged(packing, self.config.attention, log_sizes)
        return self._ragged[key][1]

    def _packing(self, cu_seqlens: Tensor | None, max_seqlen: int | None, survivors: bool) -> Packing:
        tokens, device = self.shape.numel(), self.device
        longest = max(self.host.num_prefix + self.host.frame_tokens(grid) for grid in self.clips.grids)
        if cu_seqlens is None:
            ends = torch.arange(0, tokens + 1, longest, device=device)
        else:
            ends, longest = cu_seqlens.to(device, non_blocking=True).long(), max_seqlen or longest
        index, filler = (self.index, self.filler) if survivors else (torch.arange(tokens, device=device), 0)
        ends = self.before[ends] if survivors else ends
        ends = F.pad(ends, (0, 1), value=len(index)).int()
        return Packing(index, ends, filler, (tokens // longest, longest))

    # ------------------------------------------------------------------ what was kept

    def _collect(self, i: int) -> None:
        """Leave the dropped tokens out of what was collected up to block i."""
        if self.config.stage == "frames":  # at the end, so that gradients add up in one order
            if i == len(self.number) - 1:
                self.collected = {j: self.kept(x, self.kept_packing) for j, x in self.collected.items()}
        elif i == self.biased:
            for j in [j for j in self.collected if j <= i]:
                self.collected[j] = pack(self._merged(self.collected[j]), self.kept_packing)
        elif i in self.collected:
            self.collected[i] = self.kept(self.collected[i], self.kept_packing)

    @cached_property
    def kept_packing(self) -> Packing:
        """Where the tokens of kept windows stood, frame by frame: of videos whose frames are of one size."""
        (group,) = self.groups
        count = group.count(self.clips.unit, self.config.prune_ratio)
        return plan_packing(self.kept_tokens.view(-1, group.size), *count)

    def kept(self, x: Tensor, packing: Packing) -> Tensor:
        """Outputs of the blocks for tokens that ran -> (K, D), those of kept windows. packing: kept_packing."""
        x = x.flatten(0, -2)
        if self.config.stage == "vit" and not self.config.put_back:
            return x[: len(packing.index)]
        places = torch.zeros_like(self.before[1:])
        places = places.index_copy(0, self.index, torch.arange(len(self.index), device=places.device))
        return x.index_select(0, places[packing.index])

    def of_kept(self, patches: Tensor) -> Tensor:
        windows = sum(t * w for t, w in zip(self.clips.frames, self.clips.windows, strict=True))
        count = windows - sum(self.clips.drops(self.config.prune_ratio))
        kept = self.groups[0].keep.flatten().logical_not().byte().argsort(stable=True)[:count]
        patches = patches[kept]
        places = self.kept_packing.positions()[patches.clamp(0)]
        return torch.where(patches >= 0, places, -1)

    def ran(self) -> Tensor:
        """(all windows,) bool, video by video: True where a window's patches ran to the end. Kept ones did; where
        whole frames run, others did, too."""
        for group in self.groups:
            group.ran = group.windows_of(self.running, self.clips.unit, self.host.num_prefix)
        return torch.cat([windows.flatten() for windows in self.by_video("ran")])

    def by_video(self, name: str) -> list[Tensor]:
        """A result of each video, in order, such as "keep" or "scores": (T, ...)."""
        parts: list[Tensor] = [None] * len(self.clips.frames)
        for group in self.groups:
            values = getattr(group, name).split(group.frames)
            for video, value in zip(group.videos, values, strict=True):
                parts[video] = value
        return parts

    def together(self, name: str) -> Tensor | list[Tensor]:
        """The same for all frames, (F, ...), where all grids are equal; else a list."""
        return getattr(self.groups[0], name) if len(self.groups) == 1 else self.by_video(name)
