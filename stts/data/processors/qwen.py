"""A clip and a conversation -> the tensors transformers' Qwen3-VL takes.

Pixels and text are those of transformers' Qwen3VLProcessor, whose video part needs torchvision; this one does not,
and says which tokens to supervise as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Qwen3VLProcessor,
)
from transformers.video_processing_utils import BaseVideoProcessor

from ..prompts import Message
from .base import Example, Processor
from .clip import check_clip, check_times
from .conversation import Conversation
from .folder import load_config, load_tokenizer
from .merge_units import Frames, unpatchify

if TYPE_CHECKING:
    from ..video.read import Clip

MODEL_TYPE = "qwen3_vl"
VIDEO_TOKEN, VISION_START, VISION_END = "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"
TOKENS = ("<|image_pad|>", VIDEO_TOKEN, VISION_START, VISION_END)
VIDEO_TYPE = 2
"""mm_token_type_ids of a video's placeholders."""
SETTINGS_FILE = "video_preprocessor_config.json"


@dataclass(frozen=True)
class FlatVideos:
    """Videos of any size, patch after patch, with their grids beside them: see base.VideoForm."""

    unit: int = 2
    unit_frames: int = 2
    packs = False  # positions have three axes, which the model counts row by row

    def windows(self, example: Example) -> list[tuple[int, int, int]]:
        """Units, rows and columns of windows of an example's video, if it has one."""
        if "video_grid_thw" not in example:
            return []
        return [(t, h // self.unit, w // self.unit) for t, h, w in example["video_grid_thw"].tolist()]

    def join(self, examples: Sequence[Example]) -> dict[str, Any]:
        """pixel_values_videos (S, values), video_grid_thw (V, 3); if all have them window_scores, (F, W) where all
        frames have as many windows, else (T, W) of each video."""
        examples = [example for example in examples if "video_grid_thw" in example]
        if not examples:
            return {}
        keys = ["pixel_values_videos", "video_grid_thw"]
        batch = {key: torch.cat([example[key] for example in examples]) for key in keys}
        if all("window_scores" in example for example in examples):
            scores = [example["window_scores"] for example in examples]
            batch["window_scores"] = torch.cat(scores) if len({x.shape[1] for x in scores}) == 1 else scores
        return batch

    def unit_of(self, example: Example, number: int) -> dict[str, Tensor]:
        """A video of one unit of an example's video."""
        _, rows, cols = example["video_grid_thw"][0].tolist()
        size = rows * cols
        return {
            "pixel_values_videos": example["pixel_values_videos"][number * size : (number + 1) * size],
            "video_grid_thw": torch.tensor([[1, rows, cols]]),
        }

    def first_video(self, batch: Mapping[str, Any]) -> tuple[np.ndarray, tuple[int, int, int]]:
        """The first frame of each unit of a batch's first video, (T, H, W, 3) uint8, and the video's windows."""
        units, rows, cols = grid = self.windows({"video_grid_thw": batch["video_grid_thw"][:1]})[0]
        patches = batch["pixel_values_videos"][: units * rows * cols * self.unit**2]
        frames = unpatchify(patches, grid, self.unit, self.unit_frames)
        return frames[:, 0].cpu().numpy(), grid


class QwenProcessor(Processor):
    """Turns one conversation, with or without a clip, into one unbatched example: see base.Processor.

    images: settings of the folder's image processor, which are only handed on. Raises ValueError when the tokenizer
    lacks something the prompt needs. No clip reaches the model's last position: a unit takes no more than its longer
    side.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        frames: Frames | None = None,
        images: dict[str, Any] | None = None,
    ) -> None:
        vocab = tokenizer.get_vocab()
        if missing := [token for token in TOKENS if token not in vocab]:
            raise ValueError(
                f"the tokenizer lacks {', '.join(missing)}: use the one that comes with a Qwen3-VL model"
            )
        self.conversation = Conversation(tokenizer, VIDEO_TOKEN, TOKENS)
        self.tokenizer, self.frames, self.images = tokenizer, frames or Frames(), images or {}
        self.unit_frames = self.frames.temporal_patch_size
        self.video_form = FlatVideos(self.frames.merge_size, self.unit_frames)
        self.video_id = vocab[VIDEO_TOKEN]

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | PathLike,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        **kwargs: Any,
    ) -> QwenProcessor:
        """Tokenizer, chat template and settings of a Qwen3-VL folder or hub id; kwargs as transformers takes them.

        min_pixels, max_pixels: of a whole clip, in place of the folder's. No code from the folder is ever run. Raises
        ValueError when it does not hold a Qwen3-VL, OSError when it cannot be found.
        """
        config = load_config(path_or_id, MODEL_TYPE, **kwargs)
        try:
            settings, _ = BaseVideoProcessor.get_video_processor_dict(path_or_id, **kwargs)
            frames = Frames.from_settings(settings)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path_or_id}: how frames become patches, {SETTINGS_FILE}: {error}") from error
        bounds = {"min_pixels": min_pixels, "max_pixels": max_pixels}
        frames = replace(frames, **{name: bound for name, bound in bounds.items() if bound is not None})
        tokenizer = load_tokenizer(path_or_id, **kwargs)
        found, _ = Qwen3VLProcessor.get_processor_dict(path_or_id, **kwargs)
        if template := found.get("chat_template"):
            tokenizer.chat_template = template
        processor = cls(tokenizer, frames, _image_settings(path_or_id, **kwargs))
        _check_config(path_or_id, config, processor)
        return processor

    def save_pretrained(self, folder: str | PathLike) -> None:
        """Write tokenizer, chat template and settings beside a saved model, as transformers reads them."""
        self.tokenizer.save_pretrained(folder)
        settings = {"processor_class": "Qwen3VLProcessor", **self.frames.settings()}
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

    def video_string(self, clip: Clip) -> str:
        """Each unit as Qwen3-VL writes it: the mean time of its frames, then a token a window between markers.

        Times count from the first frame, so a clip cut out of a longer video reads like a video of its own.
        """
        _, rows, cols = self.window_grid(clip)
        shown = VISION_START + VIDEO_TOKEN * (rows * cols) + VISION_END
        return "".join(f"<{time:.1f} seconds>{shown}" for time in self.unit_times(clip.timestamps))

    def unit_times(self, timestamps: Sequence[float]) -> np.ndarray:
        """The mean time of the frames of each unit, counted from the first frame; the last one fills its unit."""
        times = np.asarray(timestamps, dtype=float)
        times = times - times[0]
        times = np.append(times, np.repeat(times[-1], -len(times) % self.unit_frames))
        return (times[:: self.unit_frames] + times[self.unit_frames - 1 :: self.unit_frames]) / 2

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
        video_grid_thw (1, 3) int64 [units, rows, columns of patches]."""
        check_clip(clip)
        units, rows, cols = self.window_grid(clip)
        side = self.frames.merge_size
        return {
            "pixel_values_videos": self.frames.patches(clip.frames),
            "video_grid_thw": torch.tensor([[units, rows * side, cols * side]]),
        }


def _check_config(path_or_id: str | PathLike, config: PreTrainedConfig, processor: QwenProcessor) -> None:
    """Raises ValueError, naming the setting, when tokenizer, settings and model do not belong together."""
    frames, vision = processor.frames, config.vision_config
    pairs = {
        "video_token_id": (processor.video_id, config.video_token_id),
        "patch_size": (frames.patch_size, vision.patch_size),
        "temporal_patch_size": (frames.temporal_patch_size, vision.temporal_patch_size),
        "merge_size": (frames.merge_size, vision.spatial_merge_size),
    }
    for name, (found, wanted) in pairs.items():
        if found != wanted:
            raise ValueError(
                f"{path_or_id}: {name} is {found} by the files of its processor but {wanted} by config.json; "
                "they belong to different models"
            )


def _image_settings(path_or_id: str | PathLike, **kwargs: Any) -> dict[str, Any]:
    """Those of the image processor, which the library leaves alone; {} where there are none."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        return ImageProcessingMixin.get_image_processor_dict(path_or_id, **kwargs)[0]
    except OSError:
        return {}
