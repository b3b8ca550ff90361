"""Who decides which windows stay: the learned scorer, and the rules it is compared with, all at one budget.

Whatever the policy, a video loses exactly selection.num_dropped windows, and all but vidcom2 keep its first frame
whole. A policy ranks the windows of a View. Only the scorer's ranking passes gradient; under the others the rest of
the model trains all the same, through the features of what they keep. Where a policy acts is in config.POLICIES;
"tome" merges instead of ranking and lives in merging.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .config import STTSConfig
from .losses import window_features
from .scorer import STTSScorer
from .selection import explore, num_dropped, select_windows
from .similarity import neighbor_similarity
from .windows import Grid, first_frames, window_grid


@dataclass(frozen=True)
class View:
    """What a policy sees of the videos of a batch. In front of the LLM a window is one token: pool_width is 1."""

    features: Tensor
    """(F, N, D) patches."""
    frames_per_video: Sequence[int]
    grid: Grid
    """Rows and columns of the N patches."""
    pool_width: int
    config: STTSConfig
    scorer: STTSScorer | None = None
    window_scores: Tensor | None = None
    """(F, W), what policy "given" ranks by."""

    @property
    def shape(self) -> tuple[int, int]:
        """(F, W)."""
        rows, cols = window_grid(self.grid, self.pool_width)
        return len(self.features), rows * cols

    def videos(self) -> tuple[Tensor, ...]:
        """The windows of each video, (T, W, p * p * D) float32."""
        windows = window_features(self.features, self.pool_width, self.grid)
        return windows.split(list(self.frames_per_video))


def choose(view: View) -> tuple[Tensor, Tensor]:
    """Which windows stay, (F, W) bool, and their scores, (F, W) float32.

    The highest of each video stay. A scorer's are ranked after config.novelty_power and, in training,
    config.score_noise have changed them; the scores that are returned are the scorer's own.
    """
    config = view.config
    if config.policy == "scorer":
        scores = view.scorer.score_windows(view.features, view.frames_per_video, view.grid)
        noise = config.score_noise if view.scorer.training else 0.0
        ranked = with_novelty(scores, view) if config.novelty_power else scores
        ranked = explore(ranked, noise) if noise else ranked
    else:
        with torch.no_grad(), torch.autocast(view.features.device.type, enabled=False):
            ranked = scores = RANKINGS[config.policy](view)
    first_whole = config.policy != "vidcom2"
    return select_windows(ranked, view.frames_per_video, config.prune_ratio, first_whole), scores


@torch.no_grad()
def with_novelty(scores: Tensor, view: View) -> Tensor:
    """Scores s and novelty n as one ranking: (b + s) / (1 + b) * n ** power, (F, W) in [0, 1], b the floor.

    What is relevant and new comes first. Copies of it come behind all that is new, relevant or not, as their n is far
    below b. Among windows of no relevance the new ones lead.
    """
    config = view.config
    with torch.autocast(view.features.device.type, enabled=False):
        new = (change_since(view, config.novelty_since) if config.novelty_since else change(view)).clamp(0, 1)
    return (config.score_floor + scores) / (1 + config.score_floor) * new**config.novelty_power


def random(view: View) -> Tensor:
    """Uniform numbers of torch's generator."""
    return torch.rand(*view.shape, device=view.features.device)


def change(view: View) -> Tensor:
    """1 - cosine similarity to the same window one frame earlier; 1 in first frames.

    Policy "temporal" compares patches inside the ViT. Policy "evs" compares the tokens made for the LLM, which is
    Efficient Video Sampling (Bagrov et al. 2025, arXiv 2510.14624) as vLLM runs it: one budget for the whole video,
    most changed tokens first, the first frame always. (The paper's own rule compares pixels.) vLLM rounds the
    number it keeps down where num_dropped rounds the number dropped down, and breaks ties the other way.
    """
    similarity = neighbor_similarity(view.features.detach(), view.pool_width, view.grid)
    scores = F.pad(1 - similarity, (0, 0, 1, 0), value=1.0)
    return scores.masked_fill(first_frames(view.frames_per_video, scores.device)[:, None], 1.0)


def change_since(view: View, least: float) -> Tensor:
    """1 - cosine similarity to the same window when it last had changed by more than `least`; 1 in first frames.

    The videos go side by side, from frame to frame.
    """
    frames = torch.tensor(view.frames_per_video)
    starts, longest = frames.cumsum(0) - frames, max(view.frames_per_video)
    # (T, V): where a video has ended, its last frame again and again
    order = torch.arange(longest)[:, None].minimum(frames - 1) + starts
    scores, seen = [], None
    for rows in order.to(view.features.device, non_blocking=True):
        windows = window_features(view.features.detach().index_select(0, rows), view.pool_width, view.grid)
        now = F.normalize(windows, dim=-1)  # (V, W, p * p * D)
        if seen is None:
            seen = now
            scores.append(torch.ones_like(now[..., 0]))
            continue
        scores.append(1 - (seen * now).sum(-1))
        seen = torch.where((scores[-1] > least)[..., None], now, seen)
    by_video = torch.stack(scores, 1)  # (V, T, W)
    return torch.cat([one[:t] for one, t in zip(by_video, view.frames_per_video, strict=True)])


ATTEMPTS, STEP = 5, 0.05
"""Thresholds that the reference rule tries, and how far apart they are."""


def reference(view: View) -> Tensor:
    """1 - cosine similarity to a reference window; 2, out of reach, for frames that are a new reference as a whole.

    The heuristic of the published STTS code: the first frame is the reference. A later frame whose similarity to
    it, averaged over its windows, is below the threshold replaces it and is protected; otherwise each of its
    windows below the threshold replaces the reference at its place. Protected frames lose windows only if the rest
    does not suffice; before that the threshold is lowered, ATTEMPTS in all. (There, an attempt drops its windows on
    top of those that the one before dropped, so that a repeated attempt drops too many; here each starts anew.)
    """
    config = view.config
    scores = []
    for windows in view.videos():
        drop = num_dropped(*windows.shape[:2], config.prune_ratio)
        scores.append(_since_reference(F.normalize(windows, dim=-1), drop, config.reference_threshold))
    return torch.cat(scores)


def _since_reference(windows: Tensor, drop: int, threshold: float) -> Tensor:
    """(T, W, C) of length 1 -> (T, W). All attempts run side by side, and the first with enough to drop is taken."""
    thresholds = (threshold - STEP * torch.arange(ATTEMPTS, device=windows.device))[:, None]  # (A, 1)
    current = windows[0].expand(ATTEMPTS, -1, -1)  # (A, W, C)
    scores = [current.new_full(current.shape[:2], 2.0)]
    for frame in windows[1:]:
        similarity = (current * frame).sum(-1)  # (A, W)
        whole = similarity.mean(1, keepdim=True) < thresholds
        scores.append(torch.where(whole, 2.0, 1 - similarity))
        current = torch.where((whole | (similarity < thresholds))[..., None], frame, current)
    scores = torch.stack(scores)  # (T, A, W)
    enough = (scores < 2).sum((0, 2)) >= drop  # (A,)
    attempt = (enough.cumsum(0) == 0).sum().clamp(max=ATTEMPTS - 1)
    return scores.index_select(1, attempt[None])[:, 0]


SCALES = tuple(2.0**k for k in range(-3, 2))
TEMPERATURE = 0.01


def vidcom2(view: View) -> Tensor:
    """VidCom2 (Liu et al., EMNLP 2025, arXiv 2505.14454), after its published code where the paper says less.

    On the half of the channels that vary least, tokens x of length 1: g(x, c) = sum over SCALES of exp(-|x - c|^2 /
    (2 scale)) says how close a token is to the mean c of the video (v) or of its frame (f). Frame t gets K/T * (1 +
    p_t - 1/T) of the K tokens kept, at least 1 and at most all W, where p = softmax(-mean v / 0.01): frames unlike
    the video get more. Within a frame the tokens of lowest v + f stay.

    The score is that budget less the token's rank in its frame, so the K best are the frames' budgets, all shifted by
    the one number that makes them add up to K; the published code rounds each by itself and keeps about K.
    """
    ratio = view.config.prune_ratio
    return torch.cat([_commanded(tokens, ratio) for tokens in view.videos()])


def _commanded(tokens: Tensor, prune_ratio: float) -> Tensor:
    """(T, W, C) of one video -> (T, W)."""
    frames, windows, channels = tokens.shape
    kept = frames * windows - num_dropped(frames, windows, prune_ratio)
    quiet = tokens.flatten(0, 1).var(0, unbiased=False).topk(max(channels // 2, 1), largest=False).indices
    tokens = F.normalize(tokens.index_select(2, quiet), dim=-1)
    to_video = _closeness(tokens, tokens.mean((0, 1), keepdim=True))
    to_frame = _closeness(tokens, tokens.mean(1, keepdim=True))
    share = (-to_video.mean(1) / TEMPERATURE).softmax(0)  # (T,)
    budget = (kept / frames * (1 + share - 1 / frames)).clamp(max=windows)
    rank = (to_video + to_frame).argsort(dim=1, stable=True).argsort(dim=1)  # (T, W), 0: the most unlike
    return budget[:, None] - rank + windows * (rank == 0)  # the first of every frame before any second


def _closeness(x: Tensor, center: Tensor) -> Tensor:
    distance = (x - center).square().sum(-1)
    return torch.stack([torch.exp(-distance / (2 * scale)) for scale in SCALES]).sum(0)


def uniform(view: View) -> Tensor:
    """1 for the windows of evenly spaced frames, 0 for all others: sampling fewer frames of the same video."""
    keep = torch.zeros(view.shape)
    kept_of = kept_evenly(view.frames_per_video, view.shape[1], view.config.prune_ratio)
    for frame, windows in enumerate(kept_of):
        keep[frame, windows] = 1.0
    return keep.to(view.features.device, non_blocking=True)


def kept_evenly(frames_per_video: Sequence[int], windows: int, prune_ratio: float) -> list[list[int]]:
    """The windows that each frame of a batch keeps under policy "uniform". No pixel is needed to know.

    A frame keeps all of its windows or none. Only the last frame kept of a video may keep a part: what is left of the
    budget, evenly spaced. Where two frames or more are kept, the first and the last of the video are among them.
    """
    kept_of: list[list[int]] = [[] for _ in range(sum(frames_per_video))]
    start = 0
    for frames in frames_per_video:
        kept = frames * windows - num_dropped(frames, windows, prune_ratio)
        steps = -(-kept // windows) - 1  # from the first frame kept to the last
        for i in range(steps + 1):
            count = min(windows, kept - i * windows)
            # i / steps of the way from the first to the last, rounded
            frame = (2 * i * (frames - 1) + steps) // (2 * steps) if steps else 0
            kept_of[start + frame] = [j * windows // count for j in range(count)]
        start += frames
    return kept_of


def given(view: View) -> Tensor:
    """The window_scores that came with the batch, e.g. of an oracle. Raises ValueError unless they are (F, W)."""
    if view.window_scores is None or tuple(view.window_scores.shape) != view.shape:
        shape = None if view.window_scores is None else tuple(view.window_scores.shape)
        raise ValueError(f"window_scores is {shape}, must be {view.shape}: policy given ranks by it")
    return view.window_scores.to(view.features.device, torch.float32)


RANKINGS: dict[str, Callable[[View], Tensor]] = {
    "random": random,
    "temporal": change,
    "reference": reference,
    "given": given,
    "uniform": uniform,
    "evs": change,
    "vidcom2": vidcom2,
}
"""Policies that rank without learning."""
