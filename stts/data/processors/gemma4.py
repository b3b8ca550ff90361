"""A clip and a conversation -> the tensors transformers' Gemma 4 takes."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from .clip import check_clip
from .flat import FlatProcessor, since_first
from .placed import PlacedFrames, PlacedVideos, places

if TYPE_CHECKING:
    from ..video.read import Clip

VIDEO, START, END = "<|video|>", "<|image>", "<image|>"


class Gemma4Processor(FlatProcessor):
    """Text and pixels of Gemma4Processor: every frame under its minute and second."""

    model_types = ("gemma4",)
    family, theirs = "Gemma 4", "Gemma4Processor"
    tokens = (VIDEO, START, END)
    written = placeholder = VIDEO
    frames_type = PlacedFrames

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        frames: PlacedFrames | None = None,
        images: dict[str, Any] | None = None,
    ) -> None:
        tokenizer.add_tokens(
            [VIDEO], special_tokens=True
        )  # as theirs does: folders know it as a word at most
        super().__init__(tokenizer, frames, images)
        self.video_form = PlacedVideos(self.frames.merge_size)

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | PathLike,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        **kwargs: Any,
    ) -> Gemma4Processor:
        """As of FlatProcessor; bounds on pixels are refused: max_soft_tokens of the folder is the bound."""
        for name, bound in (("min_pixels", min_pixels), ("max_pixels", max_pixels)):
            if bound is not None:
                raise ValueError(
                    f"model.{name} is {bound}, but a model of {cls.family} bounds frames by their windows: leave it "
                    "null, and set max_soft_tokens in its video_preprocessor_config.json"
                )
        return super().from_pretrained(path_or_id, **kwargs)

    def video_string(self, clip: Clip) -> str:
        _, rows, cols = self.window_grid(clip)
        shown = f"{START}{VIDEO * (rows * cols)}{END}"
        return " ".join(f"{int(time // 60):02d}:{int(time % 60):02d} {shown}" for time in since_first(clip))

    def video_tensors(self, clip: Clip) -> dict[str, Tensor]:
        """pixel_values_videos (T, rows * cols, values) uint8, video_position_ids (T, rows * cols, 2), column and row
        of each patch, and num_frames_per_video (1,)."""
        check_clip(clip)
        frames, rows, cols = self.window_grid(clip)
        side = self.frames.merge_size
        return {
            "pixel_values_videos": self.frames.patches(clip.frames),
            "video_position_ids": places(rows * side, cols * side).expand(frames, -1, -1),
            "num_frames_per_video": torch.tensor([frames]),
        }

    def _check_config(self, path_or_id: str | PathLike, config: PreTrainedConfig) -> None:
        super()._check_config(path_or_id, config)
        found, wanted = self.frames.pooling_kernel_size, config.vision_config.pooling_kernel_size
        if found != wanted:
            raise ValueError(
                f"{path_or_id}: pooling_kernel_size is {found} by the files of its processor but {wanted} by "
                "config.json; they belong to different models"
            )
