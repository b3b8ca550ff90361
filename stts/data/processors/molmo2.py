"""A clip and a conversation -> the tensors transformers' Molmo2 takes.

Text, placeholders and patches are those of transformers' Molmo2Processor. That one needs torchvision; this
one does not, and says which tokens to supervise as well.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import Molmo2Processor, PreTrainedConfig, PreTrainedTokenizerBase

from ...files.model_folder import BadFolder
from ...pruning.windows import window_grid, window_index
from ..prompts import LETTERS, Message, multiple_choice_prompt
from ..video.pixels import patchify, resize_frames
from .base import IGNORE, Processor
from .clip import check_clip, check_times
from .conversation import Conversation
from .folder import load_config, load_tokenizer
from .pooled_videos import PooledVideos

if TYPE_CHECKING:
    from ..video.read import Clip

__all__ = ["IGNORE", "LETTERS", "VideoProcessor", "multiple_choice_prompt"]

VIDEO_TOKEN = "<|video|>"
"""What a chat template writes where the video goes."""
MULTIMODAL_TOKENS = (
    "<im_patch>",
    "<im_col>",
    "<im_start>",
    "<low_res_im_start>",
    "<frame_start>",
    "<im_end>",
    "<frame_end>",
    "<im_low>",
)
"""Tokens with mm_token_type_ids 1: Molmo2 lets them attend to each other in both directions."""

FRAME_FORMAT = {"use_frame_special_tokens": True, "video_use_col_tokens": False}
"""transformers' defaults."""


class VideoProcessor(Processor):
    """Turns one conversation, with or without a clip, into one unbatched example.

    use_frame_special_tokens: frames stand between <frame_start> and <frame_end>, else between <im_start> and
    <im_end>; video_use_col_tokens: <im_col> after each row of windows. As in transformers' Molmo2Processor.
    context_length: positions the model was made for, None for any; see stts.data.feed.budget.past_context.
    Raises ValueError when the tokenizer lacks something the prompt needs or the sizes do not fit each other.
    """

    video_form = PooledVideos()

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        image_size: int,
        patch_size: int,
        pool_width: int = 3,
        use_frame_special_tokens: bool = True,
        video_use_col_tokens: bool = False,
        context_length: int | None = None,
    ) -> None:
        if image_size < 1 or patch_size < 1 or image_size % patch_size:
            raise ValueError(f"image_size is {image_size}, must be a multiple of patch_size {patch_size}")
        if pool_width < 1:
            raise ValueError(f"pool_width is {pool_width}, must be at least 1")
        vocab = tokenizer.get_vocab()
        if missing := [token for token in (*MULTIMODAL_TOKENS, VIDEO_TOKEN) if token not in vocab]:
            raise ValueError(
                f"the tokenizer lacks {', '.join(missing)}: use the one that comes with a Molmo2 model"
            )
        bos = tokenizer.bos_token or tokenizer.eos_token
        self.conversation = Conversation(tokenizer, VIDEO_TOKEN, MULTIMODAL_TOKENS, begin=bos)
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.patch_size = patch_size
        self.pool_width = pool_width
        self.grid = (image_size // patch_size,) * 2
        self.use_frame_special_tokens = use_frame_special_tokens
        self.video_use_col_tokens = video_use_col_tokens
        self.context_length = context_length
        self._multimodal_ids = torch.tensor(tokenizer.convert_tokens_to_ids(list(MULTIMODAL_TOKENS)))

    @classmethod
    def from_pretrained(
        cls, path_or_id: str | PathLike, pool_width: int = 3, **kwargs: Any
    ) -> VideoProcessor:
        """Tokenizer, chat template and sizes of a Molmo2 folder or hub id; kwargs as transformers takes them.

        No code from the folder is ever run. Raises ValueError when it does not hold a whole Molmo2, OSError when it
        cannot be found.
        """
        config = load_config(path_or_id, "molmo2", **kwargs)
        check_frame_size(config.vision_config, path_or_id)
        tokenizer = load_tokenizer(path_or_id, **kwargs)
        format_ = _prompt_format(path_or_id, config, **kwargs)
        context = getattr(config.text_config, "max_position_embeddings", None)
        processor = cls(
            tokenizer,
            config.vision_config.image_size[0],
            config.vision_config.patch_size,
            pool_width,
            **format_,
            context_length=context,
        )
        patch_id = tokenizer.convert_tokens_to_ids("<im_patch>")
        if patch_id != config.image_patch_id:
            raise ValueError(
                f"{path_or_id}: <im_patch> is token {patch_id} of the tokenizer but image_patch_id is "
                f"{config.image_patch_id} in the config; they belong to different models"
            )
        return processor

    def save_pretrained(self, folder: str | PathLike) -> None:
        """Write tokenizer, chat template and frame format beside a saved model, whose config has the sizes."""
        self.tokenizer.save_pretrained(folder)
        format_ = {name: getattr(self, name) for name in FRAME_FORMAT}
        settings = {"processor_class": "Molmo2Processor", **format_}
        (Path(folder) / "processor_config.json").write_text(json.dumps(settings, indent=2) + "\n")

    def text_tensors(
        self, messages: Sequence[Message], clip: Clip | None = None, add_generation_prompt: bool = False
    ) -> dict[str, Tensor]:
        """prompt_tensors for a clip, of which only the timestamps count: see base.Processor."""
        times = None if clip is None else clip.timestamps
        return self.prompt_tensors(messages, times, add_generation_prompt)

    def window_grid(self, clip: Clip) -> tuple[int, int, int]:
        """Frames, rows and columns of windows of a clip."""
        return len(clip.timestamps), *window_grid(self.grid, self.pool_width)

    def prompt_tensors(
        self,
        messages: Sequence[Message],
        timestamps: Sequence[float] | None = None,
        add_generation_prompt: bool = False,
    ) -> dict[str, Tensor]:
        """The text of one example, with placeholders for a clip of frames at these seconds; None: without a clip.

        Several conversations about a clip can so share its video_tensors. Otherwise as __call__.
        """
        if timestamps is not None:
            check_times(timestamps)
        placeholders = None if timestamps is None else self.video_string(timestamps)
        input_ids, labels = self.conversation.tensors(messages, placeholders, add_generation_prompt)
        types = torch.isin(input_ids, self._multimodal_ids).long()
        return {"input_ids": input_ids, "labels": labels, "mm_token_type_ids": types}

    def video_string(self, timestamps: Sequence[float]) -> str:
        """Each frame as Molmo2 writes it: its time in seconds, then a token a window between markers.

        Times count from the first frame, so a clip cut out of a longer video reads like a video of its own.
        """
        rows, cols = window_grid(self.grid, self.pool_width)
        start, end = (
            ("<frame_start>", "<frame_end>") if self.use_frame_special_tokens else ("<im_start>", "<im_end>")
        )
        row = "<im_patch>" * cols + ("<im_col>" if self.video_use_col_tokens else "")
        frame = start + row * rows + end
        return " ".join(f"{time:.1f} {frame}" for time in self.unit_times(timestamps))

    def video_tensors(self, clip: Clip) -> dict[str, Tensor]:
        """Of a clip of T frames: pixel_values_videos (T, N, patch_size * patch_size * 3) uint8, video_token_pooling
        (T * W, p * p) int64 patches of each window, -1 = none, and video_grids (1, 3) int64 [T, rows, columns of
        windows]."""
        check_clip(clip)
        num_frames = len(clip.frames)
        patches = patchify(torch.from_numpy(resize_frames(clip.frames, self.image_size)), self.patch_size)
        windows = window_index(self.grid, self.pool_width)
        first_patch = torch.arange(num_frames).view(-1, 1, 1) * patches.shape[1]
        pooling = torch.where(windows >= 0, windows + first_patch, windows)
        return {
            "pixel_values_videos": patches,
            "video_token_pooling": pooling.flatten(0, 1),
            "video_grids": torch.tensor([[num_frames, *window_grid(self.grid, self.pool_width)]]),
        }


def check_frame_size(vision: Any, where: str | PathLike) -> None:
    """Raises BadFolder unless frames of the size in a Molmo2's vision_config have as many patches as positions."""
    height, width = vision.image_size
    if height != width:
        raise BadFolder(f"{where} takes {height} x {width} pixels, frames must be square")
    if vision.patch_size < 1 or height < 1 or height % vision.patch_size:
        raise BadFolder(
            f"{where}: image_size is {height} in config.json, must be a multiple of patch_size {vision.patch_size}"
        )
    patches = (height // vision.patch_size) ** 2
    if patches != vision.num_position_embeddings:
        raise BadFolder(
            f"{where}: image_size {height} and patch_size {vision.patch_size} in config.json make {patches} patches "
            f"of a frame, but the model has positions for {vision.num_position_embeddings}"
        )


def _prompt_format(path_or_id: str | PathLike, config: PreTrainedConfig, **kwargs: Any) -> dict[str, bool]:
    """How a model was trained to see frames written.

    processor_config.json says so, else config.json (where released models turn the frame tokens off), else
    transformers' defaults hold.
    """
    settings, _ = Molmo2Processor.get_processor_dict(path_or_id, **kwargs)
    chosen = {}
    for name, default in FRAME_FORMAT.items():
        values = (settings.get(name), getattr(config, name, None), default)
        chosen[name] = next(value for value in values if value is not None)
        if not isinstance(chosen[name], bool):
            raise ValueError(f"{path_or_id}: {name} is {chosen[name]!r}, must be true or false")
    return chosen
