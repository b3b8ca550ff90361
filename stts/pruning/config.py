"""STTSConfig: every choice the method leaves open, checked once and carried in the model's config.json."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

POLICIES = {
    "none": "nowhere",
    "scorer": "vit",
    "random": "vit",
    "temporal": "vit",
    "reference": "vit",
    "tome": "vit",
    "given": "vit",
    "uniform": "frames",
    "evs": "llm",
    "vidcom2": "llm",
}
"""Each pruning policy and its stage, where the windows it drops leave: "vit", after block insert_after + 1; "frames",
before the ViT, which never sees a frame that keeps nothing; "llm", after all of the ViT and the adapter, in front of
the LLM; "nowhere". What each does: stts.pruning.policies and docs/policies.md."""
BACKENDS = ("auto", "loop", "varlen", "flash", "flex", "bins")


@dataclass(frozen=True)
class STTSConfig:
    """Settings of Spatio-Temporal Token Scoring (arXiv 2603.18004).

    Raises ValueError, naming the field, when a value is out of range.
    """

    prune_ratio: float = 0.5
    """Share of each video's windows to drop, in [0, 1). 0 runs the host model untouched; policy "none" makes it 0."""
    insert_after: int = 3
    """Zero-based ViT block whose output is scored. The block after it gets the key bias; pruning follows."""
    pool_width: int = 3
    """Side of a window in patches: the adapter's pooling size."""
    policy: str = "scorer"
    """Who decides which windows go: "scorer" (learned), or one that is compared with it: "none", "random",
    "temporal" (change since the frame before), "reference" (change since a reference frame), "tome" (merging),
    "uniform" (fewer frames), "evs" and "vidcom2" (in front of the LLM), "given" (scores passed to the model)."""
    aux_loss_weight: float = 0.5
    """Weight of the temporal auxiliary loss in the training loss. At 0 the scorer learns from the LLM alone."""
    aux_across_videos: bool = False
    """Hold the first frame of a video against the last one of the video before it in the batch, too. The published
    code does; it teaches nothing, since first frames are always kept, and makes the loss depend on the batch."""
    detach_targets: bool = False
    """Keep the auxiliary loss from reaching the ViT through its targets (the published code lets it)."""
    center_targets: bool = False
    """Take a video's mean window out of its windows before they are compared for the auxiliary loss, so that what
    all windows share cannot make every target small (stts.pruning.losses.novelty)."""
    score_noise: float = 0.0
    """Exploration while training: how much Gumbel noise is added to the logits of the scores before the windows are
    ranked. At 1 the kept windows are drawn without replacement, odds in proportion to s / (1 - s); 0: none."""
    bias_floor: float = math.exp(-2)
    """Weight of the lowest score in the key bias, in (0, 1]. At 1 there is no bias, and the scorer learns from the
    auxiliary loss alone."""
    bias_norm: str = "row"
    """Min-max range of the key bias: "row" (each row of windows, as published) or "frame"."""
    bias_range: float = 0.0
    """Least range of scores that min-max stretches, in [0, 1]. At 0, as published, scores that are still close
    together get biases as far apart as any, and gradients the larger the closer they are (docs/evidence.md)."""
    position_ids: str = "original"
    """Positions of surviving tokens in the LLM: "original" (as before pruning) or "compact" (renumbered)."""
    attention: str = "auto"
    """Kernel for the ragged blocks after pruning: "auto" (by device and dtype), "loop" (SDPA frame by frame),
    "varlen" (torch's, CUDA), "flash" (FlashAttention 2 or 3 where installed), "flex" or "bins" (padded rows)."""
    put_back: bool = False
    """Let a frame that would be alone in its bin keep all of its patches for the rest of the ViT, though not for
    the LLM. The published code does; a video's features then depend on which others share the batch."""
    reference_threshold: float = 0.85
    """Policy "reference": similarity below which a window, or on average a frame, becomes the new reference."""
    scorer_num_heads: int | None = None
    """Heads of the scorer's window pooling. None: as many as the ViT."""
    scorer_hidden_dims: tuple[int, int] | None = None
    """Widths of the scorer's MLP. None: (D, D // 2). Published checkpoints: (4304, 4304)."""
    scorer_activation: str = "gelu"
    """Activation of the scorer's MLP. Published checkpoints: "silu"."""
    scorer_bias: float = -2.0
    """Bias of a fresh scorer's last layer. Targets are mostly small, and from a score of 0.5 the auxiliary loss first
    pulls all scores down together, which scrambles their order on the way (docs/learning.md)."""

    def __post_init__(self) -> None:
        if isinstance(self.scorer_hidden_dims, list):  # JSON brings a list
            object.__setattr__(self, "scorer_hidden_dims", tuple(self.scorer_hidden_dims))
        for field in dataclasses.fields(self):
            fits, what = _KINDS[field.type]
            value = getattr(self, field.name)
            _check(fits(value), field.name, value, f"must be {what}")
        _check(0 <= self.prune_ratio < 1, "prune_ratio", self.prune_ratio, "must be in [0, 1)")
        _check(self.insert_after >= 0, "insert_after", self.insert_after, "must be 0 or more")
        _check(self.pool_width >= 1, "pool_width", self.pool_width, "must be 1 or more")
        _check(self.policy in POLICIES, "policy", self.policy, f"must be one of {', '.join(POLICIES)}")
        if self.policy == "none":
            object.__setattr__(self, "prune_ratio", 0.0)
        _check(
            not (self.put_back and self.policy == "tome"),
            "put_back",
            self.put_back,
            "must be False under policy tome, where windows that are gone have no features of their own",
        )
        _check(self.aux_loss_weight >= 0, "aux_loss_weight", self.aux_loss_weight, "must be 0 or more")
        _check(self.score_noise >= 0, "score_noise", self.score_noise, "must be 0 or more")
        _check(
            -1 <= self.reference_threshold <= 1,
            "reference_threshold",
            self.reference_threshold,
            "must be in [-1, 1]",
        )
        _check(0 < self.bias_floor <= 1, "bias_floor", self.bias_floor, "must be in (0, 1]")
        _check(self.bias_norm in ("row", "frame"), "bias_norm", self.bias_norm, "must be row or frame")
        _check(0 <= self.bias_range <= 1, "bias_range", self.bias_range, "must be in [0, 1]")
        _check(
            self.position_ids in ("original", "compact"),
            "position_ids",
            self.position_ids,
            "must be original or compact",
        )
        _check(
            self.attention in BACKENDS, "attention", self.attention, f"must be one of {', '.join(BACKENDS)}"
        )

    @property
    def stage(self) -> str:
        """Where dropped windows leave the model, as in POLICIES."""
        return POLICIES[self.policy]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> STTSConfig:
        """Inverse of to_dict. Raises ValueError naming keys this version does not know."""
        if not isinstance(values, dict):
            raise ValueError(f"STTS settings are {values!r}, must be a group of settings")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(map(str, values)) - known):
            raise ValueError(f"unknown STTS setting {', '.join(unknown)}; known: {', '.join(sorted(known))}")
        return cls(**values)

    def replace(self, **changes: Any) -> STTSConfig:
        """A copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return _whole(value) or (isinstance(value, float) and math.isfinite(value))


def _sizes(value: object, count: int) -> bool:
    return isinstance(value, tuple) and len(value) == count and all(_whole(v) and v >= 1 for v in value)


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "str": (lambda value: isinstance(value, str), "text"),
    "int": (_whole, "a whole number"),
    "float": (_number, "a finite number"),
    "int | None": (lambda value: value is None or _sizes((value,), 1), "a whole number, 1 or more, or None"),
    "tuple[int, int] | None": (
        lambda value: value is None or _sizes(value, 2),
        "two whole numbers, 1 or more, or None",
    ),
}
"""Types of the fields as they are written above: whether a value fits, and what it must be in words."""


def _check(ok: bool, name: str, value: object, rule: str) -> None:
    if not ok:
        raise ValueError(f"{name} is {value!r}, {rule}")
