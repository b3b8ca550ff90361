"""insert_stts: pruning in transformers' vision models as they are, Molmo2's, SigLIP's, CLIP's and DINOv2's.

SigLIP 2 checkpoints of fixed resolution load as SigLIP models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionModel,
    Dinov2Model,
    Dinov2WithRegistersModel,
    PreTrainedModel,
    SiglipVisionModel,
)
from transformers.models.molmo2.modeling_molmo2 import Molmo2VisionModel
from transformers.utils import ModelOutput

from ..data.video.pixels import normalize
from ..pruning.attention import install
from ..pruning.config import STTSConfig
from ..pruning.packing import Packing, unpack
from ..pruning.vit import build_scorer, drops_per_video, run_pruned
from ..pruning.windows import Grid, window_grid


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


@dataclass(frozen=True)
class Host:
    """What differs between vision models."""

    embed: Callable[[Tensor], Tensor]
    """Pixels of F frames, as the model takes them, -> (F, R + N, D)."""
    blocks: Sequence[nn.Module]
    finish: Callable[[Tensor], Tensor]
    """Norm of the last hidden state."""
    grid: Callable[[Tensor], Grid]
    """Rows and columns of patches that embed makes of those pixels."""
    num_prefix: int


def _molmo2(model: Molmo2VisionModel) -> Host:
    height, width = (side // model.config.patch_size for side in model.config.image_size)

    def embed(pixels: Tensor) -> Tensor:
        pixels = normalize(pixels) if pixels.dtype == torch.uint8 else pixels
        x = model.patch_embedding(pixels.to(model.dtype))
        return x + model.positional_embedding.to(x)

    return Host(embed, model.layers, nn.Identity(), lambda pixels: (height, width), 0)


def _siglip(model: SiglipVisionModel) -> Host:
    return Host(model.embeddings, model.encoder.layers, model.post_layernorm, _square(model), 0)


def _clip(model: CLIPVisionModel) -> Host:
    embed = nn.Sequential(model.embeddings, model.pre_layrnorm)
    return Host(embed, model.encoder.layers, nn.Identity(), _square(model), 1)


def _square(model: PreTrainedModel) -> Callable[[Tensor], Grid]:
    side = model.config.image_size // model.config.patch_size
    return lambda pixels: (side, side)


def _dinov2(model: Dinov2Model | Dinov2WithRegistersModel) -> Host:
    def grid(pixels: Tensor) -> Grid:  # of any size: positions are interpolated
        return pixels.shape[2] // model.config.patch_size, pixels.shape[3] // model.config.patch_size

    num_prefix = 1 + getattr(model.config, "num_register_tokens", 0)
    return Host(model.embeddings, model.encoder.layer, model.layernorm, grid, num_prefix)


_HOSTS = {
    Molmo2VisionModel: _molmo2,
    SiglipVisionModel: _siglip,
    CLIPVisionModel: _clip,
    Dinov2Model: _dinov2,
    Dinov2WithRegistersModel: _dinov2,
}


def describe(model: nn.Module) -> Host:
    """The host behind a vision model. Raises ValueError for a class that is not supported."""
    for cls, build in _HOSTS.items():
        if isinstance(model, cls):
            return build(model)
    supported = ", ".join(cls.__name__ for cls in _HOSTS)
    raise ValueError(f"cannot prune a {type(model).__name__}; supported: {supported}")


def insert_stts(vision_model: PreTrainedModel, config: STTSConfig) -> PreTrainedModel:
    """Make a vision model prune the frames of videos.

    The model gets a fresh `scorer` (train it, or load its weights) and `stts`, the settings, which can be
    assigned at any time. Its forward then takes frames_per_video, T of each video summing to F (None: all frames
    are one video), and returns a PrunedOutput; where nothing is to prune it returns what it always returned.
    Returns the same model. Raises ValueError for an unsupported class, or one that was changed already.
    """
    host = describe(vision_model)
    if hasattr(vision_model, "scorer"):
        raise ValueError(f"this {type(vision_model).__name__} already has a scorer")
    vision_model.scorer = build_scorer(vision_model.config, config).to(
        vision_model.device, vision_model.dtype
    )
    vision_model.stts = config
    whole = vision_model.forward

    def forward(pixel_values: Tensor, *args, frames_per_video: Sequence[int] | None = None, **kwargs):
        stts = vision_model.stts
        frames = [len(pixel_values)] if frames_per_video is None else list(frames_per_video)
        rows, cols = window_grid(host.grid(pixel_values), stts.pool_width)
        if not any(drops_per_video(frames, rows * cols, stts.prune_ratio)):
            return whole(pixel_values, *args, **kwargs)
        install(vision_model.config)
        return _pruned(host, vision_model.scorer, stts, pixel_values, frames)

    vision_model.forward = forward
    return vision_model


def _pruned(
    host: Host, scorer: nn.Module, stts: STTSConfig, pixels: Tensor, frames: list[int]
) -> PrunedOutput:
    last = len(host.blocks) - 1
    x = host.embed(pixels)
    out = run_pruned(host.blocks, x, scorer, stts, frames, host.grid(pixels), [last], host.num_prefix)
    packing = out.packing.without_filler()
    hidden = host.finish(out.hidden_states[last][: len(packing.index)])
    return PrunedOutput(hidden, packing.index, out.keep, out.scores, out.scored, packing)
