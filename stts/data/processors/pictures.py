"""What the processors share whose models take frames of one size: LLaVA's, and those to which frames are images.

Pixels and text are those of transformers' own processors, whose video part needs torchvision; these do not, and say
which tokens to supervise as well.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin
from transformers.video_processing_utils import BaseVideoProcessor

from ..prompts import Message
from ..video.pixels import Scale
from .clip import check_clip, check_times
from .family import SETTINGS_FILE, FamilyProcessor
from .flat import image_settings
from .folder import load_config, load_tokenizer
from .squares import PictureVideos, Squares, interpolation, whole_side

if TYPE_CHECKING:
    from ..video.read import Clip


class PictureProcessor(FamilyProcessor):
    """Of families that take squares of one size: see family.FamilyProcessor.

    across: LLM tokens along a frame; settings: of transformers' video processor, or image processor where the model
    knows no videos.
    """

    placeholder_setting = "image_token_id"
    scale: ClassVar[Scale]
    """What the host makes of bytes; pictures that are to be scaled otherwise travel as floats."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        across: int,
        settings: Mapping[str, Any],
        images: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(tokenizer, images)
        self.across, self.settings = across, dict(settings)
        self.squares, self.folder_scale = self.squares_of(settings), self._scale_of(settings)
        self.video_form = PictureVideos(across, across, self.folder_scale)

    # What a family says

    @classmethod
    def squares_of(cls, settings: Mapping[str, Any]) -> Squares:
        """How frames become pictures under a folder's settings. Raises ValueError where these are no squares."""
        return Squares(whole_side(settings) or 384, interpolation(settings, "bicubic"))

    @classmethod
    @abstractmethod
    def across_of(cls, config: PreTrainedConfig) -> int:
        """LLM tokens along a frame."""

    @abstractmethod
    def video_string(self, clip: Clip) -> str:
        """The text of a clip, with a placeholder a window, as the family writes it."""

    # What follows from that

    @classmethod
    def from_pretrained(cls, path_or_id: str | PathLike, **kwargs: Any) -> PictureProcessor:
        """Tokenizer, chat template and settings of a folder or hub id; kwargs as transformers takes them.

        No code from the folder is ever run. Raises ValueError when it holds a model of another family, OSError when
        it cannot be found.
        """
        config = load_config(path_or_id, cls.model_types, **kwargs)
        images = image_settings(path_or_id, **kwargs)
        try:
            settings = images
            if cls.kind == "video":
                settings, _ = BaseVideoProcessor.get_video_processor_dict(path_or_id, **kwargs)
            tokenizer = load_tokenizer(path_or_id, **kwargs)
            found, _ = ProcessorMixin.get_processor_dict(path_or_id, **kwargs)
            if template := found.get("chat_template"):
                tokenizer.chat_template = template
            processor = cls(tokenizer, cls.across_of(config), settings, images)
        except OSError as error:
            raise ValueError(f"{path_or_id}: how frames become pictures, {SETTINGS_FILE}: {error}") from error
        processor._check_config(path_or_id, config)
        return processor

    def save_pretrained(self, folder: str | PathLike) -> None:
        """Write tokenizer, chat template and settings beside a saved model, as transformers reads them."""
        self.tokenizer.save_pretrained(folder)
        files = {"preprocessor_config.json": self.images} if self.images else {}
        name = SETTINGS_FILE if self.kind == "video" else "preprocessor_config.json"
        files[name] = {"processor_class": self.theirs, **self.settings}
        for name, values in files.items():
            (Path(folder) / name).write_text(json.dumps(values, indent=2) + "\n")

    def text_tensors(
        self, messages: Sequence[Message], clip: Clip | None = None, add_generation_prompt: bool = False
    ) -> dict[str, Tensor]:
        """input_ids, labels and mm_token_type_ids (1 at placeholders), (L,) int64."""
        if clip is not None:
            check_times(clip.timestamps)
        placeholders = None if clip is None else self.video_string(clip)
        input_ids, labels = self.conversation.tensors(messages, placeholders, add_generation_prompt)
        types = (input_ids == self.video_id).long()
        return {"input_ids": input_ids, "labels": labels, "mm_token_type_ids": types}

    def window_grid(self, clip: Clip) -> tuple[int, int, int]:
        """Frames, rows and columns of windows of a clip."""
        return len(clip.timestamps), self.across, self.across

    def video_tensors(self, clip: Clip) -> dict[str, Tensor]:
        """pixel_values_videos (T, 3, side, side), uint8, or float32 where the folder scales them otherwise."""
        check_clip(clip)
        pictures = self.squares(clip.frames)
        if self.folder_scale != self.scale:
            pictures = self.folder_scale(pictures, channels=1)
        return {"pixel_values_videos": pictures}

    @classmethod
    def _scale_of(cls, settings: Mapping[str, Any]) -> Scale:
        values = (settings.get("image_mean") or cls.scale.mean, settings.get("image_std") or cls.scale.std)
        return Scale(*(tuple(x) if isinstance(x, list | tuple) else (x,) * 3 for x in values))

    def _check_config(self, path_or_id: str | PathLike, config: PreTrainedConfig) -> None:
        """Raises ValueError, naming the setting, when tokenizer, settings and model do not belong together."""
        side = config.vision_config.image_size
        pairs = {
            self.placeholder_setting: (self.video_id, getattr(config, self.placeholder_setting)),
            "image_size": (self.squares.side, side if isinstance(side, int) else side[0]),
        }
        for name, (found, wanted) in pairs.items():
            if found != wanted:
                raise ValueError(
                    f"{path_or_id}: {name} is {found} by the files of its processor but {wanted} by config.json; "
                    "they belong to different models"
                )
