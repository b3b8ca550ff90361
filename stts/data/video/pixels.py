"""Decoded frames -> the patches transformers' Molmo2VideoProcessor makes, without torchvision.

Resizing is bilinear without antialias on float pixels, rounded back to uint8; patches are row-major, channels
last. Patches stay uint8 until they are on the device: a quarter of the bytes to move.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F


def resize_frames(frames: np.ndarray, size: int) -> np.ndarray:
    """Resize frames to a square.

    frames: (T, H, W, 3) uint8; size: side in pixels, at least 1. Returns (T, size, size, 3) uint8.
    """
    if frames.shape[1:3] == (size, size):
        return frames
    # one channel an image: channels last takes a kernel that rounds differently with more threads
    x = rearrange(torch.from_numpy(np.ascontiguousarray(frames)), "t h w c -> (t c) 1 h w").float()
    x = F.interpolate(x, (size, size), mode="bilinear", antialias=False, align_corners=False)
    return rearrange(x.round().clamp(0, 255).byte(), "(t c) 1 h w -> t h w c", c=3).numpy()


def patchify(frames: Tensor, patch_size: int) -> Tensor:
    """Cut frames into patches: (T, S, S, 3) -> (T, N, patch_size * patch_size * 3), any dtype, row-major.

    Raises ValueError when patch_size does not divide the frame.
    """
    height, width = frames.shape[1:3]
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"frames are {height} x {width} pixels, must be a multiple of patch_size {patch_size}"
        )
    return rearrange(frames, "t (h p) (w q) c -> t (h w) (p q c)", p=patch_size, q=patch_size)


def unpatchify(patches: Tensor) -> Tensor:
    """Inverse of patchify for square frames: (T, N, p * p * 3) -> (T, S, S, 3), any dtype."""
    side, p = math.isqrt(patches.shape[1]), math.isqrt(patches.shape[2] // 3)
    return rearrange(patches, "t (h w) (p q c) -> t (h p) (w q) c", h=side, w=side, p=p, q=p)


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of each channel, of pixels from 0 to 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, pixels: Tensor, channels: int) -> Tensor:
        """uint8 -> float32, as a model was trained on them. channels: the axis of red, green and blue."""
        mean, std = self._like(pixels, channels)
        return (pixels.float() / 255 - mean) / std

    def back(self, pixels: Tensor, channels: int) -> Tensor:
        """Inverse: float32 -> uint8."""
        mean, std = self._like(pixels, channels)
        return ((pixels * std + mean) * 255).round().clamp(0, 255).byte()

    def _like(self, pixels: Tensor, channels: int) -> tuple[Tensor, ...]:
        shape = [3] + [1] * (pixels.ndim - 1 - channels % pixels.ndim)
        known = torch.tensor((self.mean, self.std)).to(
            pixels.device, non_blocking=True
        )  # made there, they would wait
        return tuple(x.view(shape) for x in known)


UNIT = Scale((0.0,) * 3, (1.0,) * 3)
HALF = Scale((0.5,) * 3, (0.5,) * 3)
CLIP = Scale((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = Scale((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def normalize(patches: Tensor) -> Tensor:
    """uint8 patches of any shape -> float32 in [-1, 1]: HALF, whatever their channels."""
    return (patches.float() / 255 - 0.5) / 0.5
