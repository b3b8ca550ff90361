"""STTSConfig: every choice the method leaves open, checked once and carried in the model's config.json."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..rules import at_least, between, check, check_rules, one_of, or_null, without_gone

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

    prune_ratio: float = field(default=0.5, metadata=between(0, 1, "[)"))
    """Share of each video's windows to drop, in [0, 1). 0 runs the host model untouched; policy "none" makes it 0."""
    insert_after: int = field(default=3, metadata=at_least(0))
    """Zero-based ViT block whose output is scored. The block after it gets the key bias; pruning follows."""
    pool_width: int | None = field(default=None, compare=False, metadata=or_null(at_least(1)))
    """Side of a window in patches: what one LLM token reads. None: the host's own; another one is refused. A model
    fills it in; comparing settings leaves it out."""
    policy: str = field(default="scorer", metadata=one_of(*POLICIES))
    """Who decides which windows go: "scorer" (learned), or one that is compared with it: "none", "random",
    "temporal" (change since the frame before), "reference" (change since a reference frame), "tome" (merging),
    "uniform" (fewer frames), "evs" and "vidcom2" (in front of the LLM), "given" (scores passed to the model)."""
    aux_loss_weight: float = field(default=0.5, metadata=at_least(0))
    """Weight of the temporal auxiliary loss in the training loss. At 0 the scorer learns from the LLM alone."""
    relevance_weight: float = field(default=0.0, metadata=at_least(0))
    """Weight of the loss that pulls the scores of kept windows to the size of the LLM's gradient at their tokens,
    as a share of their video's greatest (docs/relevance.md). At 0, as published, it is not computed."""
    novelty_power: float = field(default=0.0, metadata=at_least(0))
    """Windows are ranked by (score_floor + score) * novelty ** novelty_power, novelty being 1 - cosine similarity to
    the same window earlier. At 0, as published, by the score alone."""
    novelty_since: float = field(default=0.0, metadata=between(0, 1, "[)"))
    """Novelty compares with the last frame in which the window had changed by more than this, so that slow changes
    add up. At 0: with the frame before."""
    score_floor: float = field(default=0.05, metadata=at_least(0))
    """What a score of 0 still counts in that product, so that windows of no relevance rank by their novelty."""
    aux_across_videos: bool = False
    """Also compare the first frame of a video with the last one of the video before it in the batch. The published
    code does. It teaches nothing, since first frames are always kept, and the loss then depends on the batch."""
    detach_targets: bool = False
    """Keep the auxiliary loss from reaching the ViT through its targets (the published code lets it)."""
    score_noise: float = field(default=0.0, metadata=at_least(0))
    """Exploration while training: how much Gumbel noise is added to the logits of the scores before the windows are
    ranked. At 1 the kept windows are drawn without replacement, odds in proportion to s / (1 - s); 0: none."""
    bias_floor: float = field(default=math.exp(-2), metadata=between(0, 1, "(]"))
    """Weight of the lowest score in the key bias, in (0, 1]. At 1 there is no bias, and the scorer learns from the
    auxiliary loss and from relevance alone."""
    bias_norm: str = field(default="row", metadata=one_of("row", "frame"))
    """Min-max range of the key bias: "row" (each row of windows, as published) or "frame"."""
    bias_range: float = field(default=0.0, metadata=between(0, 1))
    """Least range of scores that min-max stretches, in [0, 1]. At 0, as published, close scores get biases as far
    apart as any others, and the closer they are the larger their gradients (docs/evidence.md)."""
    position_ids: str = field(default="original", metadata=one_of("original", "compact"))
    """Positions of surviving tokens in the LLM: "original" (as before pruning) or "compact" (renumbered)."""
    attention: str = field(default="auto", metadata=one_of(*BACKENDS))
    """Kernel for the ragged blocks after pruning: "auto" (by device and dtype), "loop" (SDPA frame by frame),
    "varlen" (torch's, CUDA), "flash" (FlashAttention 2 or 3 where installed), "flex" or "bins" (padded rows)."""
    put_back: bool = False
    """Let a frame that would be alone in its bin keep all of its patches for the rest of the ViT, though not for
    the LLM. The published code does; a video's features then depend on which others share the batch."""
    reference_threshold: float = field(default=0.85, metadata=between(-1, 1))
    """Policy "reference": similarity below which a window, or on average a frame, becomes the new reference."""
    scorer_num_heads: int | None = None
    """Heads of the scorer's window pooling. None: as many as the ViT."""
    scorer_hidden_dims: tuple[int, int] | None = None
    """Widths of the scorer's MLP. None: (D, D // 2). Published checkpoints: (4304, 4304)."""
    scorer_activation: str = "gelu"
    """Activation of the scorer's MLP. Published checkpoints: "silu"."""
    scorer_bias: float = -2.0
    """Bias of a fresh scorer's last layer. Targets are mostly small. From scores of 0.5 the auxiliary loss would
    first pull all of them down together, which scrambles their order (docs/learning.md)."""

    def __post_init__(self) -> None:
        if isinstance(self.scorer_hidden_dims, list):  # JSON brings a list
            object.__setattr__(self, "scorer_hidden_dims", tuple(self.scorer_hidden_dims))
        for setting in dataclasses.fields(self):
            fits, what = _KINDS[setting.type]
            value = getattr(self, setting.name)
            check(fits(value), setting.name, value, f"must be {what}")
        check_rules(self)
        if self.policy == "none":
            object.__setattr__(self, "prune_ratio", 0.0)
        check(
            not (self.put_back and self.policy == "tome"),
            "put_back",
            self.put_back,
            "must be False under policy tome, where windows that are gone have no features of their own",
        )

    @property
    def stage(self) -> str:
        """Where dropped windows leave the model, as in POLICIES."""
        return POLICIES[self.policy]

    def for_windows(self, pool_width: int) -> STTSConfig:
        """The settings on a host whose LLM tokens read pool_width x pool_width patches.

        Raises ValueError when another pool_width was asked for.
        """
        if self.pool_width not in (None, pool_width):
            raise ValueError(
                f"pool_width is {self.pool_width}, but one token of this model reads {pool_width} x {pool_width} "
                f"patches: leave pool_width out, or set it to {pool_width}"
            )
        return self.replace(pool_width=pool_width)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> STTSConfig:
        """Inverse of to_dict, an earlier version's included. Raises ValueError naming keys that are not known."""
        if not isinstance(values, dict):
            raise ValueError(f"STTS settings are {values!r}, must be a group of settings")
        values = without_gone(values, "stts")
        known = {setting.name for setting in dataclasses.fields(cls)}
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
"""By a field's type, as written above: a test of its value, and in words what it must be."""
