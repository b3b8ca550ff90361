"""Gemma 4: patches of a frame with their places beside them, averaged 3 x 3 by place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.video.pixels import UNIT
from ..pruning.blocks import active_pass
from ..pruning.run import Run
from .base import Clips, Host, as_rows


class Gemma4(Host):
    """Gemma4ForConditionalGeneration. Frames have any size; behind their patches is filler, up to the most patches of
    the batch, which a pruned pass leaves out: all patches of all frames run one after the other."""

    adapter_at = ("model.embed_vision",)
    keys = ("pixel_values_videos", "video_position_ids", "num_frames_per_video")
    tail = "blocks"

    @property
    def unit(self) -> int:
        return self.vision.config.pooling_kernel_size

    @property
    def token_id(self) -> int:
        return self.model.config.video_token_id

    @property
    def unread(self) -> tuple[str, ...]:
        return ("model.audio_tower.", "model.embed_audio.")

    def floats(self, pixels: Tensor) -> Tensor:
        return UNIT(pixels.unflatten(-1, (-1, 3)), channels=-1).flatten(-2)

    def clips(self, inputs: dict[str, Any]) -> Clips:
        frames = torch.as_tensor(inputs["num_frames_per_video"]).tolist()
        firsts = torch.tensor([0, *frames[:-1]]).cumsum(0)
        sizes = (inputs["video_position_ids"][firsts].amax(1) + 1).tolist()
        return Clips(tuple(frames), tuple((rows, cols) for cols, rows in sizes), self.unit)

    def encode(self, inputs: dict[str, Any], clips: Clips) -> tuple[Tensor, dict[str, list[Tensor]]]:
        pixels, places = (inputs[key] for key in self.keys[:2])
        if not isinstance(active_pass(), Run):
            frames = torch.tensor(clips.frames)
            own = self.model.base_model.get_video_features
            out = own(pixels, places, num_frames_per_video=frames, return_dict=True)
            return as_rows(out.pooler_output), {}
        index = real_patches(clips, pixels.shape[1]).to(pixels.device, non_blocking=True)
        pixels, places = (x.flatten(0, 1).index_select(0, index)[None] for x in (pixels, places))
        videos = zip(clips.frames, clips.grids, strict=True)
        sizes = [size for t, (rows, cols) in videos for size in [rows * cols] * t]
        filler = torch.zeros_like(places[..., 0], dtype=torch.bool)
        x = self.vision.encoder(
            inputs_embeds=self.vision.patch_embedder(pixels, places, filler),
            attention_mask=pixels.new_zeros(1, 1, 1, 1),  # the pass has its own
            pixel_position_ids=places,
            cu_seqlens=F.pad(torch.tensor(sizes).cumsum(0), (1, 0)).int(),
            max_seqlen=max(sizes),
        ).last_hidden_state
        return self.model.base_model.embed_vision(inputs_embeds=self._pooled(x[0], places[0], clips)), {}

    def _pooled(self, x: Tensor, places: Tensor, clips: Clips) -> Tensor:
        """(S, D) patches of all frames and their places (S, 2) -> (windows, D), by the vision model's own pooler."""
        vision, found = self.vision, []
        counts = [t * rows * cols for t, (rows, cols) in zip(clips.frames, clips.grids, strict=True)]
        videos = zip(clips.frames, clips.windows, x.split(counts), places.split(counts), strict=True)
        for frames, windows, patches, place in videos:
            patches, place = (part.unflatten(0, (frames, -1)) for part in (patches, place))
            padding = torch.zeros_like(place[..., 0], dtype=torch.bool)
            found.append(vision.pooler(patches, place, padding, windows)[0].flatten(0, 1))
        pooled = torch.cat(found)
        if vision.config.standardize:
            pooled = (pooled - vision.std_bias.float()) * vision.std_scale.float()
        return pooled.to(x.dtype)

    def still(self) -> dict[str, Tensor]:
        side = self.unit
        places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).flip(1)
        return {
            "pixel_values_videos": torch.zeros(1, side**2, self.vision.patch_embedder.input_proj.in_features),
            "video_position_ids": places[None],
            "num_frames_per_video": torch.tensor([1]),
        }

    def for_survivors(self, kwargs: dict[str, Any], index: Tensor) -> dict[str, Any]:
        kwargs = super().for_survivors(kwargs, index)
        kwargs["position_embeddings"] = tuple(x[None] for x in kwargs["position_embeddings"])
        return kwargs | {"position_ids": kwargs["position_ids"].flatten(0, 1).index_select(0, index)[None]}


def real_patches(clips: Clips, longest: int) -> Tensor:
    """(S,) int64: where the patches of all frames lie among frames filled up to `longest`."""
    starts = torch.arange(sum(clips.frames)).split(list(clips.frames))
    sizes = (torch.arange(rows * cols) for rows, cols in clips.grids)
    return torch.cat(
        [(start[:, None] * longest + size).flatten() for start, size in zip(starts, sizes, strict=True)]
    )
