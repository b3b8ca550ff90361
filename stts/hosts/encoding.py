"""From the pixels of videos to the features of the windows that are kept, wherever a policy drops the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..pruning.attention import install
from ..pruning.config import STTSConfig
from ..pruning.layout import BatchLayout
from ..pruning.memory import Clips
from ..pruning.policies import View, choose
from ..pruning.relevance import Relevance, is_taught, teach
from ..pruning.run import Run
from ..pruning.visual_tokens import VisualTokens
from ..pruning.windows import window_grid
from .base import Host

PerWindow = Tensor | list[Tensor]
"""(F, W), or (T, W) of each video where frames differ in size."""


@dataclass(frozen=True)
class Encoded:
    """Videos as the LLM takes them."""

    features: Tensor
    """(K, D), in the order of their placeholders."""
    extra: dict[str, list[Tensor]]
    """Further features of the same tokens, by name."""
    stays: Tensor
    """(tokens,) bool: which placeholders stay, of all windows and what stands between them."""
    keep: PerWindow | None = None
    """True at kept windows. None, as the rest: nothing was dropped."""
    scores: PerWindow | None = None
    scored: PerWindow | None = None
    """(F, N, D) or a list of (T, N, D): what was scored, where the ViT did it."""
    relevance: Relevance | None = None
    """What the LLM's gradient at the features teaches the scorer in training."""


def clips_of(
    host: Host, inputs: dict[str, Any], layout: BatchLayout | None, visual: VisualTokens | None = None
) -> Clips:
    """The sizes of the videos, from the host's memory where it has them. visual: videos encoded before."""
    grids = () if layout is None else layout.grids
    if not grids and layout is not None and visual is not None:
        grids = visual.grids
    if not grids and are_known(host, layout):
        grids = (host.frame_grid,) * len(layout.frames_per_video)
    return Clips(layout.frames_per_video, grids, host.unit) if grids else host.clips(inputs)


def are_known(host: Host, layout: BatchLayout | None) -> bool:
    """Whether the sizes of the videos are known without asking the device."""
    return layout is not None and bool(layout.grids or host.frame_grid)


def windows_of(host: Host, clips: Clips) -> list[Tensor]:
    """Of each video, the window behind each of its placeholders."""
    return [host.windows_of(t, w) for t, w in zip(clips.frames, clips.windows, strict=True)]


def encode(
    model: nn.Module, inputs: dict[str, Any], clips: Clips, window_scores: PerWindow | None = None
) -> Encoded:
    """Encode videos and drop what the settings say.

    inputs: forward's arguments; window_scores: what policy "given" ranks by. Raises ValueError for a description
    of the host that does not fit it.
    """
    host, stts = model.host, model.stts
    drops = sum(clips.drops(stts.prune_ratio))
    if not drops and not (model.lockstep and stts.prune_ratio):
        return encode_whole(host, inputs, clips)
    if stts.stage == "llm":
        return encode_then_choose(host, inputs, clips, stts)
    install(host.vision.config)
    run = Run(host, clips, stts, host.scorer, window_scores, host.collects)
    with run.active():
        features, extra = host.encode(inputs, clips)
    if not run.groups:
        raise ValueError(
            f"{type(host).__name__}.encode did not run the blocks at {host.blocks_at!r} of the vision model, "
            "whose forward has to loop over them"
        )
    windows = windows_of(host, clips)
    flat = torch.cat([x.flatten() for x in run.by_video("keep")])
    kept = stays(flat, windows, clips)
    index = first_true(kept, len(kept) - drops)
    of_survivors = selection(host, run, kept, index, windows)
    extra = {name: [of_survivors(x) for x in parts] for name, parts in extra.items()}
    keep, scores, scored = (run.together(name) for name in ("keep", "scores", "scored"))
    features, relevance = of_survivors(features), None
    if model.training and is_taught(stts):
        of_token = owners(windows, clips).to(kept.device, non_blocking=True)[index]
        sizes = list(zip(clips.frames, clips.windows, strict=True))
        features, relevance = teach(stts, features, scores, flat, of_token, sizes)
    return Encoded(features, extra, kept, keep, scores, scored, relevance)


def encode_whole(host: Host, inputs: dict[str, Any], clips: Clips) -> Encoded:
    """The same where every window stays: what the host's own way gives."""
    features, extra = host.encode(inputs, clips)
    return Encoded(features, extra, torch.ones(len(features), dtype=torch.bool, device=features.device))


def encode_then_choose(host: Host, inputs: dict[str, Any], clips: Clips, stts: STTSConfig) -> Encoded:
    """The same for policies that choose among the tokens that were made for the LLM."""
    features, extra = host.encode(inputs, clips)
    windows = windows_of(host, clips)
    keep, scores = choose_in_front(features, clips, stts, windows)
    flat = torch.cat([x.flatten() for x in keep]) if isinstance(keep, list) else keep.flatten()
    kept = stays(flat, windows, clips)
    index = first_true(kept, len(kept) - sum(clips.drops(stts.prune_ratio)))
    extra = {name: [x.index_select(0, index) for x in parts] for name, parts in extra.items()}
    return Encoded(features.index_select(0, index), extra, kept, keep, scores)


def encoded_before(visual: VisualTokens, host: Host, clips: Clips, prune_ratio: float) -> Encoded:
    """The same of videos that were encoded before. Raises ValueError unless they lost what they would lose now."""
    windows, drops = windows_of(host, clips), sum(clips.drops(prune_ratio))
    visual.check(sum(map(len, windows)) - drops)
    keep = visual.keep if isinstance(visual.keep, list) else [visual.keep]
    kept = stays(torch.cat([x.flatten() for x in keep]), windows, clips)
    said = (visual.keep, visual.scores, visual.scored, visual.relevance) if drops else ()
    return Encoded(visual.features, visual.extra, kept, *said)


def as_visual(encoded: Encoded, clips: Clips) -> VisualTokens:
    """Encoded videos, to be asked about. Without gradients what only the auxiliary loss needs is left out."""
    keep = encoded.keep
    if keep is None:
        sizes, device = zip(clips.frames, clips.windows, strict=True), encoded.features.device
        keep = [torch.ones(size, dtype=torch.bool, device=device) for size in sizes]
        keep = torch.cat(keep) if len(set(clips.windows)) == 1 else keep
    scored = encoded.scored if torch.is_grad_enabled() else None
    found = (encoded.features, keep, encoded.scores, scored, encoded.relevance, encoded.extra)
    return VisualTokens(*found, tuple(clips.grids))


def selection(
    host: Host, run: Run, kept: Tensor, index: Tensor, windows: list[Tensor]
) -> Callable[[Tensor], Tensor]:
    """What takes the features that a host's encode gave to those of tokens that stay. index: where kept is True."""
    count = len(index)

    def of_survivors(x: Tensor) -> Tensor:
        if len(x) == count:
            return x
        if len(x) == len(kept):  # taken before the prune, or dense again
            return x.index_select(0, index)
        if run.config.stage != "frames" and not run.config.put_back:
            raise ValueError(
                f"{type(host).__name__}.encode gave {len(x)} features, must be {count} of survivors or "
                f"{len(kept)} of all windows: is its tail {host.tail!r}?"
            )
        ran = stays(run.ran(), windows, run.clips)  # whole frames run on
        return x.index_select(0, (ran.cumsum(0) - 1)[index])

    return of_survivors


def first_true(x: Tensor, count: int) -> Tensor:
    """(n,) bool, `count` of them True -> (count,) int64, where; nobody waits for the device."""
    return x.logical_not().byte().argsort(stable=True)[:count]


def owners(windows: list[Tensor], clips: Clips) -> Tensor:
    """(tokens,) int64 on the host: the window behind each placeholder, counted through all videos; -1 stays
    anyway."""
    found, start = [], 0
    for owner, frames, count in zip(windows, clips.frames, clips.windows, strict=True):
        found.append(torch.where(owner < 0, -1, owner + start))
        start += frames * count
    return torch.cat(found)


def stays(keep: Tensor, windows: list[Tensor], clips: Clips) -> Tensor:
    """Which placeholders stay, (tokens,) bool. keep: (all windows,); windows: of each video, Host.windows_of."""
    owner, start = owners(windows, clips), len(keep)
    if len(owner) == start and torch.equal(owner, torch.arange(start)):
        return keep
    owner = owner.to(keep.device, non_blocking=True)
    return keep[owner.clamp(0)] | (owner < 0)


def choose_in_front(
    features: Tensor, clips: Clips, stts: STTSConfig, windows: list[Tensor]
) -> tuple[PerWindow, PerWindow]:
    """Choose among the tokens that were made for the LLM of all windows, (tokens, D): keep and scores."""
    videos, start = [], 0
    for owner, frames, count, grid in zip(windows, clips.frames, clips.windows, clips.grids, strict=True):
        places = owner.argsort(stable=True)[-frames * count :] + start  # behind those of no window
        tokens = features.index_select(0, places.to(features.device, non_blocking=True))
        videos.append((frames, window_grid(grid, clips.unit), tokens.unflatten(0, (frames, -1))))
        start += len(owner)
    if len(set(clips.grids)) == 1:
        tokens = torch.cat([tokens for *_, tokens in videos])
        return choose(View(tokens, clips.frames, videos[0][1], 1, stts))
    chosen = [choose(View(tokens, (frames,), grid, 1, stts)) for frames, grid, tokens in videos]
    keep, scores = (list(x) for x in zip(*chosen, strict=True))
    return keep, scores
