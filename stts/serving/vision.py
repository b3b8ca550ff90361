"""The vision side of a served model: our own pruning model without its LLM, which is the engine's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from ..hosts.families import FAMILIES
from ..hosts.molmo2_names import of_vision_side
from ..hosts.sizes import POOL_WIDTH
from ..pruning.config import STTSConfig
from ..pruning.selection import num_dropped
from ..pruning.windows import Grid, window_grid, window_index
from .layout import videos_at_once

FRAMES_AT_ONCE = 256
"""Of several videos in one pass through the ViT: a bound on memory, which an engine does not know of."""
LLM = ("model.language_model", "lm_head")


class VisionSide(nn.Module):
    """ViT, scorer and adapter, whole on every device."""

    def __init__(self, config: PreTrainedConfig, stts: STTSConfig) -> None:
        super().__init__()
        config = deepcopy(config)
        config.stts = stts.to_dict()
        config.text_config.num_hidden_layers = config.text_config.vocab_size = 1
        here, dtype = torch.empty(0).device, torch.get_default_dtype()
        with torch.device("meta"):
            model = FAMILIES[config.model_type].pruning_class()(config)
        for name in LLM:
            owner, _, part = name.rpartition(".")
            delattr(model.get_submodule(owner), part)
        self.pruned = model.to(dtype).to_empty(device=here).eval()
        side = config.vision_config.image_size[0] // config.vision_config.patch_size
        self.grid: Grid = (side, side)

    @property
    def stts(self) -> STTSConfig:
        return self.pruned.stts

    @property
    def num_windows(self) -> int:
        """Of a frame."""
        rows, cols = window_grid(self.grid, POOL_WIDTH)
        return rows * cols

    def dropped(self, frames: int) -> int:
        """Windows that a video of so many frames loses."""
        return num_dropped(frames, self.num_windows, self.stts.prune_ratio)

    @torch.no_grad()
    def encode(self, pixels: Tensor, frames: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        """pixels: (F, N, patch pixels) uint8; frames: T of each video, plain integers.

        Of each video the LLM's features of kept windows (K, D), and which those are, (T, W) bool.
        """
        start = 0
        for group in videos_at_once(frames, FRAMES_AT_ONCE):
            count = sum(frames[group])
            yield from self._encode(pixels[start : start + count], frames[group])
            start += count

    def _encode(self, pixels: Tensor, frames: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
        windows = window_index(self.grid, POOL_WIDTH)
        first = torch.arange(len(pixels)).view(-1, 1, 1) * pixels.shape[1]
        pooling = torch.where(windows >= 0, windows + first, windows).flatten(0, 1)
        rows, cols = window_grid(self.grid, POOL_WIDTH)
        visual = self.pruned.encode_videos(
            pixel_values_videos=pixels,
            video_token_pooling=pooling.to(pixels.device, non_blocking=True),
            video_grids=torch.tensor([[t, rows, cols] for t in frames]),  # stays on the CPU, where it is read
        )
        kept = [t * self.num_windows - self.dropped(t) for t in frames]
        yield from zip(visual.features.split(kept), visual.keep.split(list(frames)), strict=True)

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take tensors by the names they have in a saved folder. Raises ValueError, naming one, where one is missing,
        of another shape, or not known."""
        found, here = {}, self.pruned.state_dict()
        for name, tensor in weights:
            name = name_in_memory(name)
            if name not in here:
                raise ValueError(f"the folder holds {name}, which the vision side of its model does not have")
            if tensor.shape != here[name].shape:
                raise ValueError(
                    f"{name} has the shape {tuple(tensor.shape)}, must have {tuple(here[name].shape)}"
                )
            found[name] = tensor
        scores = self.stts.policy == "scorer" and self.stts.prune_ratio > 0
        needless = set() if scores else {name for name in here if ".scorer." in name}
        if missing := sorted(here.keys() - found.keys() - needless):
            hint = "save a trained one, or serve it with --video-pruning-rate 0"
            raise ValueError(
                f"the folder lacks {missing[0]} ({len(missing)} tensors of the ViT's side): {hint}"
            )
        self.pruned.load_state_dict(found, strict=False)

    @staticmethod
    def owns(name: str) -> bool:
        """Whether a tensor of a saved folder belongs here, the rest being the LLM's."""
        return of_vision_side(name)


def name_in_memory(name: str) -> str:
    """A key of the released layout -> transformers' own; its own stay."""
    for renaming in get_checkpoint_conversion_mapping("molmo2"):
        for source, target in zip(renaming.source_patterns, renaming.target_patterns, strict=True):
            name = re.sub(source, target, name)
    return name
