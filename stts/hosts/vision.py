"""Bare vision models: SigLIP's, CLIP's and DINOv2's, which prune the frames of videos they are given.

SigLIP 2 checkpoints of fixed resolution load as SigLIP models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from transformers.utils import ModelOutput

from ..pruning.attention import install
from ..pruning.config import STTSConfig
from ..pruning.packing import Packing, unpack
from ..pruning.run import Clips, Run
from ..pruning.windows import Grid, check_frames
from .base import Host
from .pruned import PrunedModel

POOL_WIDTH = 3
"""Side of a window in patches where the settings do not say: no LLM token is there to tell."""


@dataclass
class PrunedOutput(ModelOutput):
    """Output of a ViT that pruned.

    last_hidden_state: (K, D) kept tokens, frame by frame, prefix tokens (CLS, registers) first in each; token_index:
    (K,) int64, their flat numbers frame * (R + N) + token; keep: (F, W) bool; scores: (F, W); scored: (F, N, D) the
    features that were scored, for temporal_aux_loss.
    """

    last_hidden_state: Tensor | None = None
    token_index: Tensor | None = None
    keep: Tensor | None = None
    scores: Tensor | None = None
    scored: Tensor | None = None
    packing: Packing | None = None

    def dense(self) -> Tensor:
        """(F, R + N, D), zeros where a token was dropped."""
        return unpack(self.last_hidden_state, self.packing)


class VisionHost(Host):
    """A vision model by itself. Any pool_width suits it."""

    vision_at = ""
    adapter_at = ()
    tail = "none"
    keys = ("pixel_values",)

    @property
    def unit(self) -> int:
        return self.model.stts.pool_width

    def settle(self, stts: STTSConfig) -> STTSConfig:
        return stts.for_windows(stts.pool_width or POOL_WIDTH)

    @classmethod
    def pruned(cls) -> type[PrunedModel]:
        """What stands before such a model's class."""
        return PrunedVision

    def grid(self, pixels: Tensor) -> Grid:
        """Rows and columns of patches of these frames."""
        side = self.model.config.image_size // self.model.config.patch_size
        return side, side

    def floats(self, pixels: Tensor) -> Tensor:
        """Pixels as the model takes them."""
        return pixels


class Siglip(VisionHost):
    """SiglipVisionModel."""


class Clip(VisionHost):
    """CLIPVisionModel, which has a class token."""

    num_prefix = 1


class Dinov2(VisionHost):
    """Dinov2Model: a class token, frames of any size, since positions are interpolated."""

    blocks_at = "encoder.layer"
    num_prefix: ClassVar[int] = 1

    def grid(self, pixels: Tensor) -> Grid:
        patch = self.model.config.patch_size
        return pixels.shape[2] // patch, pixels.shape[3] // patch


class Dinov2WithRegisters(Dinov2):
    """Dinov2WithRegistersModel."""

    @property
    def num_prefix(self) -> int:
        return 1 + self.model.config.num_register_tokens


class PrunedVision(PrunedModel):
    """What stands before a transformers vision model: its forward on videos."""

    def forward(
        self,
        pixel_values: Tensor,
        frames_per_video: Sequence[int] | None = None,
        window_scores: Tensor | None = None,
        **kwargs: Any,
    ) -> ModelOutput:
        """The transformers class's forward on the tokens that survive.

        frames_per_video: T of each video, summing to the frames; None: all are one video. Returns a PrunedOutput, or
        where nothing is to prune what the transformers class does.
        """
        host, stts = self.host, self.stts
        frames = (len(pixel_values),) if frames_per_video is None else tuple(frames_per_video)
        check_frames(len(pixel_values), frames)
        clips = Clips(frames, (host.grid(pixel_values),) * len(frames), host.unit)
        pixel_values = host.floats(pixel_values)
        if not any(clips.drops(stts.prune_ratio)):
            return super().forward(pixel_values, **kwargs)
        run = Run(host, clips, stts, host.scorer, window_scores)
        with run.active():
            hidden = self.last_hidden(pixel_values, **kwargs)
        packing = run.kept_packing.without_filler()
        hidden = run.kept(hidden, packing)
        scored = (run.together(name) for name in ("keep", "scores", "scored"))
        return PrunedOutput(hidden, packing.index, *scored, packing)

    def last_hidden(self, pixel_values: Tensor, **kwargs: Any) -> Tensor:
        """What the model says of the tokens that survive, where a run is active."""
        install(self.config)
        return super().forward(pixel_values, **kwargs).last_hidden_state
