"""What the processors of Qwen's kind share: frames in their own shape, cut into merge units.

Pixels and text are those of transformers' own processors, whose video part needs torchvision; these do not, and say
which tokens to supervise as well.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin
from transformers.video_processing_utils import BaseVideoProcessor

from ..prompts import Message
from .clip import check_clip, check_times
from .family import SETTINGS_FILE, FamilyProcessor
from .flat_videos import FlatVideos
from .folder import load_config, load_tokenizer
from .merge_units import Frames

if TYPE_CHECKING:
    from ..video.read import Clip

VIDEO_TYPE = 2
"""mm_token_type_ids of a video's placeholders."""


class FlatProcessor(FamilyProcessor):
    """Of families that take frames in their own shape: see family.FamilyProcessor."""

    placeholder_setting = "video_token_id"
    frames_type: ClassVar[type[Frames]] = Frames
    beside: ClassVar[tuple[str, ...]] = ()
    """Further tensors of a video, see beside_pixels."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        frames: Frames | None = None,
        images: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(tokenizer, images)
        self.frames = frames or self.frames_type()
        self.unit_frames = self.frames.temporal_patch_size
        self.video_form = FlatVideos(self.frames.merge_size, self.unit_frames, self.beside)

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | PathLike,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        **kwargs: Any,
    ) -> FlatProcessor:
        """Tokenizer, chat template and settings of a folder or hub id; kwargs as transformers takes them.

        min_pixels, max_pixels: in place of the folder's. No code from the folder is ever run. Raises ValueError when
        it holds a model of another family, OSError when it cannot be found.
        """
        config = load_config(path_or_id, cls.model_types, **kwargs)
        try:
            settings, _ = BaseVideoProcessor.get_video_processor_dict(path_or_id, **kwargs)
            frames = cls.frames_type.from_settings(settings)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path_or_id}: how frames become patches, {SETTINGS_FILE}: {error}") from error
        bounds = {"min_pixels": min_pixels, "max_pixels": max_pixels}
        frames = replace(frames, **{name: bound for name, bound in bounds.items() if bound is not None})
        tokenizer = load_tokenizer(path_or_id, **kwargs)
        found, _ = ProcessorMixin.get_processor_dict(path_or_id, **kwargs)
        if template := found.get("chat_template"):
            tokenizer.chat_template = template
        processor = cls(tokenizer, frames, image_settings(path_or_id, **kwargs))
        processor._check_config(path_or_id, config)
        return processor

    def save_pretrained(self, folder: str | PathLike) -> None:
        """Write tokenizer, chat template and settings beside a saved model, as transformers reads them."""
        self.tokenizer.save_pretrained(folder)
        settings = {"processor_class": self.theirs, **self.frames.settings()}
        files = {SETTINGS_FILE: settings} | ({"preprocessor_config.json": self.images} if self.images else {})
        for name, values in files.items():
            (Path(folder) / name).write_text(json.dumps(values, indent=2) + "\n")

    def text_tensors(
        self, messages: Sequence[Message], clip: Clip | None = None, add_generation_prompt: bool = False
    ) -> dict[str, Tensor]:
        """input_ids, labels and mm_token_type_ids (2 at placeholders), (L,) int64."""
        placeholders = None if clip is None else self.video_string(clip)
        input_ids, labels = self.conversation.tensors(messages, placeholders, add_generation_prompt)
        types = (input_ids == self.video_id).long() * VIDEO_TYPE
        return {"input_ids": input_ids, "labels": labels, "mm_token_type_ids": types}

    @abstractmethod
    def video_string(self, clip: Clip) -> str:
        """The text of a clip, with a placeholder a window, as the family writes it."""

    def window_grid(self, clip: Clip) -> tuple[int, int, int]:
        """Units of time, rows and columns of windows of a clip."""
        count, height, width = clip.frames.shape[:3]
        check_times(clip.timestamps)
        if len(clip.timestamps) != count:
            raise ValueError(
                f"a clip has {count} frames and {len(clip.timestamps)} timestamps, must have one each"
            )
        height, width = self.frames.size(count, height, width)
        return self.frames.units(count), height // self.frames.factor, width // self.frames.factor

    def video_tensors(self, clip: Clip) -> dict[str, Tensor]:
        """pixel_values_videos (units * rows * cols, values) uint8, patches in the order of merge units, and
        video_grid_thw (1, 3) int64 [units, rows, columns of patches], and what is beside them."""
        check_clip(clip)
        units, rows, cols = self.window_grid(clip)
        side = self.frames.merge_size
        return {
            "pixel_values_videos": self.frames.patches(clip.frames),
            "video_grid_thw": torch.tensor([[units, rows * side, cols * side]]),
            **self.beside_pixels(clip),
        }

    def beside_pixels(self, clip: Clip) -> dict[str, Tensor]:
        """Further tensors of a clip, (1,) each: those that `beside` names."""
        return {}

    def _check_config(self, path_or_id: str | PathLike, config: PreTrainedConfig) -> None:
        """Raises ValueError, naming the setting, when tokenizer, settings and model do not belong together."""
        vision = config.vision_config
        pairs = {
            self.placeholder_setting: (self.video_id, getattr(config, self.placeholder_setting)),
            "patch_size": (self.frames.patch_size, vision.patch_size),
            "temporal_patch_size": (
                self.unit_frames,
                getattr(vision, "temporal_patch_size", self.unit_frames),
            ),
            "merge_size": (
                self.frames.merge_size,
                getattr(vision, "spatial_merge_size", self.frames.merge_size),
            ),
        }
        for name, (found, wanted) in pairs.items():
            if found != wanted:
                raise ValueError(
                    f"{path_or_id}: {name} is {found} by the files of its processor but {wanted} by config.json; "
                    "they belong to different models"
                )


def since_first(clip: Clip) -> np.ndarray:
    """(T,) seconds from the first frame, so that a clip cut out of a longer video reads like a video of its own."""
    times = np.asarray(clip.timestamps, dtype=float)
    return times - times[0]


def image_settings(path_or_id: str | PathLike, **kwargs: Any) -> dict[str, Any]:
    """Those of the image processor, which the library leaves alone; {} where there are none."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        return ImageProcessingMixin.get_image_processor_dict(path_or_id, **kwargs)[0]
    except OSError:
        return {}
