"""LLaVA-OneVision: frames made half as wide by bilinear interpolation, so that LLM tokens share patches."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.video.pixels import CLIP
from ..pruning.windows import Grid
from .base import Clips, Host, as_rows


class LlavaOnevision(Host):
    """LlavaOnevisionForConditionalGeneration. 27 x 27 patches become 14 x 14 tokens, each of which reads 2 x 2; a
    newline, which stays, follows each video. Pixels are (V, T, 3, H, W), or (F, 3, H, W) with frames_per_video."""

    keys = ("pixel_values_videos", "frames_per_video")
    adapter_before_pooling: ClassVar[bool] = True

    @property
    def unit(self) -> int:
        return 2

    @property
    def token_id(self) -> int:
        return self.model.config.video_token_id

    @property
    def side(self) -> int:
        """Patches along a frame."""
        return self.vision.config.image_size // self.vision.config.patch_size

    @property
    def tokens_across(self) -> int:
        """LLM tokens along a frame."""
        return math.ceil(self.side / 2)

    @property
    def frame_grid(self) -> Grid:
        return (self.tokens_across * self.unit,) * 2

    @property
    def unread(self) -> tuple[str, ...]:
        norm_and_head = (f"{self.vision_at}.post_layernorm.", f"{self.vision_at}.head.")
        return self.behind(self.model.config.vision_feature_layer) + norm_and_head

    def accept(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs, key = super().accept(inputs), self.keys[0]
        if (
            (pixels := inputs.get(key)) is not None
            and pixels.ndim == 4
            and not inputs.get("frames_per_video")
        ):
            return inputs | {key: pixels[None]}  # the frames of one video
        return inputs

    def floats(self, pixels: Tensor) -> Tensor:
        return CLIP(pixels, channels=-3)

    def clips(self, inputs: dict[str, Any]) -> Clips:
        pixels = inputs["pixel_values_videos"]
        if pixels.ndim == 5:
            frames = (pixels.shape[1],) * len(pixels)
        else:
            frames = tuple(inputs["frames_per_video"])
        return Clips(frames, (self.frame_grid,) * len(frames), self.unit)

    def cells(self, grid: Grid) -> Tensor:
        tokens = grid[0] // self.unit
        first = ((torch.arange(tokens) + 0.5) * self.side / tokens - 0.5).floor().long().clamp(0)
        line = torch.stack(
            [first, (first + 1).clamp(max=self.side - 1)], 1
        ).flatten()  # that interpolation reads
        return (line[:, None] * self.side + line).flatten()

    def frame_tokens(self, grid: Grid) -> int:
        return self.side**2

    def windows_of(self, frames: int, windows: int) -> Tensor:
        return F.pad(super().windows_of(frames, windows), (0, 1), value=-1)

    def still(self) -> dict[str, Tensor]:
        side = self.vision.config.image_size
        return {"pixel_values_videos": torch.zeros(1, 1, 3, side, side)}

    def encode(self, inputs: dict[str, Any], clips: Clips) -> tuple[Tensor, dict[str, list[Tensor]]]:
        pixels = inputs["pixel_values_videos"]
        whole = pixels if pixels.ndim == 5 else pixels[None]
        features = self.model.base_model.get_video_features(whole, return_dict=True).pooler_output
        if pixels.ndim == 5:
            return as_rows(features), {}
        features, newline = features[0, :-1], features[0, -1:]
        sizes = [frames * windows for frames, windows in zip(clips.frames, clips.windows, strict=True)]
        return torch.cat([x for video in features.split(sizes) for x in (video, newline)]), {}

    def output(self, rows, extra):
        out = super().output(rows, extra)
        out.pooler_output = torch.cat(list(rows))[None]
        return out
