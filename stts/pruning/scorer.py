"""The scorer: features of a window now and one frame ago -> one importance score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from transformers.activations import ACT2FN

from .windows import Grid, check_frames, previous_frame, resolve_grid, spread, to_windows


class WindowPooling(nn.Module):
    """Attention over the patches of a window, with their mean as the only query."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads is {num_heads}, must divide dim {dim}")
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.o_proj = nn.Linear(dim, dim)

    def forward(self, windows: Tensor) -> Tensor:
        """(F, W, P, D) -> (F, W, D). Padded patches take part as zeros, as published."""
        mean = reduce(windows, "f w p d -> f w d", "mean")
        q = rearrange(self.q_proj(mean), "f w (h d) -> f w h 1 d", h=self.num_heads)
        k = rearrange(self.k_proj(windows), "f w p (h d) -> f w h p d", h=self.num_heads)
        v = rearrange(self.v_proj(windows), "f w p (h d) -> f w h p d", h=self.num_heads)
        logits = (q.float() * k.float()).sum(-1) * q.shape[-1] ** -0.5  # (F, W, h, P)
        pooled = (logits.softmax(-1).to(v.dtype)[..., None] * v).sum(-2)
        return self.o_proj(rearrange(pooled, "f w h d -> f w (h d)"))


class STTSScorer(nn.Module):
    """Importance of each window from its patches now and one frame earlier (paper section 3).

    Each window of p x p patches is attention-pooled to one vector; that of the previous frame and that of the
    current one, concatenated in this order, pass a 3-layer MLP and a sigmoid.

    dim: width D of the patch features; num_heads: of the pooling, dividing dim; hidden_dims: MLP widths,
    (D, D // 2) by default; activation: any name transformers knows. Raises ValueError on other values.
    """

    def __init__(
        self,
        dim: int,
        pool_width: int = 3,
        num_heads: int = 8,
        hidden_dims: tuple[int, int] | None = None,
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        if activation not in ACT2FN:
            raise ValueError(f"activation is {activation!r}, must be one of {', '.join(ACT2FN)}")
        first, second = hidden_dims or (dim, dim // 2)
        self.pool_width = pool_width
        self.pooling = WindowPooling(dim, num_heads)
        self.fc1 = nn.Linear(2 * dim, first)
        self.fc2 = nn.Linear(first, second)
        self.fc3 = nn.Linear(second, 1)
        self.activation = ACT2FN[activation]

    def forward(self, x_curr: Tensor, x_prev: Tensor | None = None, grid: Grid | None = None) -> Tensor:
        """Score frames against given previous frames.

        x_curr, x_prev: (B, N, D) patch features; x_prev None where there is no frame before. Returns (B, N)
        float32 scores in [0, 1], the score of its window for every patch.
        """
        grid = resolve_grid(x_curr.shape[1], grid)
        if x_prev is not None and x_prev.shape != x_curr.shape:
            raise ValueError(f"x_prev is {tuple(x_prev.shape)}, must be {tuple(x_curr.shape)} like x_curr")
        curr = self.pool(x_curr, grid)
        prev = torch.zeros_like(curr) if x_prev is None else self.pool(x_prev, grid)
        return spread(self.score(prev, curr), grid, self.pool_width)

    def score_windows(self, x: Tensor, frames_per_video: Sequence[int], grid: Grid | None = None) -> Tensor:
        """Score every window of whole videos.

        x: (F, N, D), the frames of all videos one after the other; frames_per_video: T of each, summing to F.
        Returns (F, W) float32 in [0, 1]. Before the first frame of a video stands a zero vector.
        """
        check_frames(len(x), frames_per_video)
        curr = self.pool(x, resolve_grid(x.shape[1], grid))
        return self.score(previous_frame(curr, frames_per_video), curr)

    def pool(self, x: Tensor, grid: Grid) -> Tensor:
        """(F, N, D) -> (F, W, D), one vector a window."""
        return self.pooling(to_windows(x, grid, self.pool_width))

    def score(self, prev: Tensor, curr: Tensor) -> Tensor:
        """Pooled windows of the previous and the current frame, (F, W, D) each -> (F, W)."""
        x = self.activation(self.fc1(torch.cat([prev, curr], dim=-1)))
        x = self.activation(self.fc2(x))
        return self.fc3(x).squeeze(-1).float().sigmoid()

    @classmethod
    def from_published(cls, state_dict: Mapping[str, Tensor], num_heads: int) -> STTSScorer:
        """A scorer with the weights of a published checkpoint.

        state_dict: tensors named patch_token_pooler.{wq,wk,wv,wo}.* and mlp.{w1,w2,w3}.*, any prefix in front
        that all share; num_heads: of the pooling (16 in the published models; tensors do not tell). Raises
        ValueError listing missing and unexpected names.
        """
        weights = _rename_published(state_dict)
        expected = [f"{ours}.{part}" for ours in PUBLISHED_NAMES.values() for part in ("weight", "bias")]
        missing, extra = sorted(set(expected) - set(weights)), sorted(set(weights) - set(expected))
        if missing or extra:
            raise ValueError(f"not a published scorer: missing {missing}, unexpected {extra}")
        first, second = weights["fc1.weight"], weights["fc2.weight"]
        scorer = cls(first.shape[1] // 2, 3, num_heads, (first.shape[0], second.shape[0]), "silu")
        scorer.load_state_dict(weights)
        return scorer


PUBLISHED_NAMES = {
    "patch_token_pooler.wq": "pooling.q_proj",
    "patch_token_pooler.wk": "pooling.k_proj",
    "patch_token_pooler.wv": "pooling.v_proj",
    "patch_token_pooler.wo": "pooling.o_proj",
    "mlp.w1": "fc1",
    "mlp.w2": "fc2",
    "mlp.w3": "fc3",
}
"""Modules of a published scorer and what they are called here."""


def _rename_published(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published names to ours; names that are no scorer tensor stay as they are."""
    renamed = {}
    for name, tensor in state_dict.items():
        module, _, part = name.rpartition(".")
        ours = next(
            (new for old, new in PUBLISHED_NAMES.items() if module == old or module.endswith("." + old)), None
        )
        renamed[f"{ours}.{part}" if ours else name] = tensor
    return renamed
