"""Images beside videos: whose placeholder is whose.

Molmo2 writes the same placeholder token for both. A video's stand between frame_start and frame_end, an image's do
not. Images are never pruned.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Molmo2Config

VIDEO_KEYS = ("pixel_values_videos", "video_token_pooling", "video_grids")
IMAGE_KEYS = ("pixel_values", "image_token_pooling", "image_grids")


def num_image_tokens(image_grids: Tensor) -> int:
    """Placeholders of all images: image_grids (I, 4) holds rows and columns of the whole view and of the crops."""
    rows, cols, crop_rows, crop_cols = image_grids.unbind(-1)
    return int((rows * cols + crop_rows * crop_cols).sum())


def video_placeholders(input_ids: Tensor, config: Molmo2Config, with_images: bool) -> Tensor:
    """(B, L) bool, True at the placeholders of videos; without images that is all of them."""
    placeholder = input_ids == config.image_token_id
    if not with_images:
        return placeholder
    place = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
    started, ended = (
        torch.where(input_ids == token, place, -1).cummax(1).values
        for token in (config.frame_start_token_id, config.frame_end_token_id)
    )
    return placeholder & (started > ended)


def check_image_tokens(input_ids: Tensor, videos: Tensor, image_grids: Tensor, config: Molmo2Config) -> None:
    """Raises ValueError unless the placeholders outside frames, videos being those inside, fit the images."""
    found = int(((input_ids == config.image_token_id) & ~videos).sum())
    if found != (wanted := num_image_tokens(image_grids)):
        raise ValueError(
            f"input_ids has {found} visual placeholders outside of video frames, but the {len(image_grids)} images "
            f"of image_grids need {wanted}"
        )


def in_placeholder_order(videos: Tensor, images: Tensor, placeholder: Tensor, of_video: Tensor) -> Tensor:
    """Visual features in the order of their placeholders, row by row.

    videos: (K, D), images: (I, D), each in order; placeholder: (B, L) bool, K + I of them True; of_video: (B, L)
    bool, True at the K of videos. Returns (K + I, D).
    """
    visual = torch.cat([videos, images.to(videos)])
    of_image = (placeholder & ~of_video).flatten()
    of_video = of_video.flatten()
    row = torch.where(of_video, of_video.cumsum(0) - 1, len(videos) + of_image.cumsum(0) - 1)  # (B * L,)
    places = placeholder.flatten().logical_not().byte().argsort(stable=True)[: len(visual)]
    return visual[row[places]]
