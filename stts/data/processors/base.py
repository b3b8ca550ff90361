"""What a host's processor must do, so that reading, checking, batching and asking need not know the host."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..evidence import evidence_items
from ..prompts import Message
from .clip import check_clip

if TYPE_CHECKING:
    from ..video.read import Clip

IGNORE = -100
"""Label of a token that is not supervised."""
Example = Mapping[str, Any]
"""What a processor makes of a conversation and a clip; unbatched, so its text is (L,)."""


class VideoForm(Protocol):
    """How the videos of a family lie in examples and batches."""

    packs: bool
    """Whether several examples may share a row of a batch."""
    unit: int | None
    """Side of a window in patches, where frames differ in size; None: they do not, and the model knows it."""
    unit_frames: int
    """As of the processor."""

    def windows(self, example: Example) -> list[tuple[int, int, int]]:
        """Units of time, rows and columns of windows of each video of an example: one or none."""

    def join(self, examples: Sequence[Example]) -> dict[str, Any]:
        """The videos of all examples as the model takes them, in order; {} where there is none. Raises ValueError
        naming the example whose video does not go with the others."""

    def unit_of(self, example: Example, number: int) -> Example:
        """The video of an example, which has one, cut down to one of its units."""

    def first_video(self, batch: Mapping[str, Any]) -> tuple[np.ndarray, tuple[int, int, int]]:
        """A picture of each unit of a batch's first video, (T, H, W, 3) uint8, and its units, rows and columns of
        windows."""


class Processor(ABC):
    """Turns a conversation, with or without a clip, into the tensors that its host takes."""

    tokenizer: PreTrainedTokenizerBase
    image_size: int | None = None
    """Side of the square frames it takes; None: frames as they are stored."""
    unit_frames: int = 1
    """Neighbouring frames that are one unit of time to the host, which scores and drops windows of units."""
    context_length: int | None = None
    """Positions the model was made for; None: no clip reaches them."""
    video_form: VideoForm

    def __call__(
        self, messages: Sequence[Message], clip: Clip | None = None, add_generation_prompt: bool = False
    ) -> dict[str, Tensor]:
        """Build one example: text_tensors, with a clip video_tensors as well.

        messages: user and assistant turns in alternation, {"role", "content"}; the clip goes in front of the first.
        With add_generation_prompt the last turn is the user's and the text ends where the answer begins. Raises
        ValueError, naming the turn, for text that cannot be a prompt, and for what is no clip.
        """
        if clip is not None:
            check_clip(clip)
        text = self.text_tensors(messages, clip, add_generation_prompt)
        return text if clip is None else text | self.video_tensors(clip)

    @property
    def pad_token_id(self) -> int:
        """What to pad input_ids with: the tokenizer's own, or the end token where it has none."""
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

    @abstractmethod
    def text_tensors(
        self, messages: Sequence[Message], clip: Clip | None = None, add_generation_prompt: bool = False
    ) -> dict[str, Tensor]:
        """input_ids, labels (IGNORE except on the answers and the token that ends each) and mm_token_type_ids, all
        (L,) int64, with a placeholder a window. Of the clip only
        timestamps and the shape of its frames count, so that questions can share video_tensors."""

    @abstractmethod
    def video_tensors(self, clip: Clip) -> dict[str, Tensor]:
        """The frames of one example."""

    @abstractmethod
    def window_grid(self, clip: Clip) -> tuple[int, int, int]:
        """Units of time, rows and columns of windows that a clip becomes."""

    def unit_times(self, timestamps: Sequence[float]) -> np.ndarray:
        """Seconds of frames -> the mean of each unit's, (T,), counted from the first frame; the last one fills its
        unit. A clip cut out of a longer video so reads like a video of its own."""
        times = np.asarray(timestamps, dtype=float)
        times = times - times[0]
        times = np.append(times, np.repeat(times[-1], -len(times) % self.unit_frames))
        return (times[:: self.unit_frames] + times[self.unit_frames - 1 :: self.unit_frames]) / 2

    @abstractmethod
    def save_pretrained(self, folder: str | PathLike) -> None:
        """Write what from_pretrained needs beside a saved model."""


def evidence_in(processor: Processor, evidence: Sequence[dict], clip: Clip) -> np.ndarray:
    """(E, T, W) bool, T units: True where a piece of the evidence can be seen, as evidence_items says for frames."""
    units, rows, cols = processor.window_grid(clip)
    frames = evidence_items(evidence, clip.timestamps, rows, cols)
    last = np.repeat(frames[:, -1:], units * processor.unit_frames - frames.shape[1], axis=1)
    frames = np.concatenate([frames, last], axis=1)
    return frames.reshape(len(frames), units, processor.unit_frames, rows * cols).any(2)
