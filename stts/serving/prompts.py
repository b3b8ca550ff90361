"""The tokens of a served prompt: what is known of a video's stretch before the ViT has run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..data.processors.molmo2 import MULTIMODAL_TOKENS, VIDEO_TOKEN, VideoProcessor
from ..pruning.config import STTSConfig
from ..pruning.selection import num_dropped
from ..pruning.windows import window_grid
from .layout import MOST_TOKENS

FPS = 2.0
"""Frames a second, where nobody says otherwise."""


@dataclass(frozen=True)
class PromptSizes:
    """Counts tokens of videos, dropped windows left out."""

    processor: VideoProcessor
    stts: STTSConfig
    most: int
    """Tokens of a video that may go into the LLM at once."""

    @cached_property
    def num_windows(self) -> int:
        """Of a frame."""
        rows, cols = window_grid(self.processor.grid, self.processor.pool_width)
        return rows * cols

    @cached_property
    def marker_ids(self) -> Tensor:
        """Tokens that see each other in both directions: windows, and what stands around them."""
        return torch.tensor(self.processor.tokenizer.convert_tokens_to_ids(list(MULTIMODAL_TOKENS)))

    @property
    def video_id(self) -> int:
        """The token that stands for a whole video in what a chat template writes."""
        return self.processor.tokenizer.convert_tokens_to_ids(VIDEO_TOKEN)

    @property
    def window_id(self) -> int:
        """The token that stands for a window."""
        return self.processor.tokenizer.convert_tokens_to_ids(MULTIMODAL_TOKENS[0])

    def stretch(self, times: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Tokens of a whole video with frames at these seconds, and which are visual: (L,) int64, (L,) bool."""
        text = self.processor.video_string(times)
        ids = torch.tensor(
            self.processor.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        )
        return ids, torch.isin(ids, self.marker_ids)

    def dropped(self, frames: int) -> int:
        """Windows that a video of so many frames loses."""
        return num_dropped(frames, self.num_windows, self.stts.prune_ratio)

    def kept(self, times: Sequence[float]) -> int:
        """Tokens of a video that survive. Raises ValueError where they are more than may go into the LLM at once."""
        frames, total = len(times), len(self.stretch(times)[0])
        kept = total - self.dropped(frames)
        if total > MOST_TOKENS or kept > self.most:
            raise ValueError(
                f"the video has {frames} frames, {total:,} tokens, {kept:,} after pruning, and must go into the LLM "
                f"in one piece of at most {self.most:,} ({MOST_TOKENS:,} before pruning): take fewer frames, drop "
                "more, or let the server take more at once (--max-model-len, --max-num-batched-tokens)"
            )
        return kept

    def most_frames(self, tokens: int, at_most: int) -> int:
        """Frames, at_most or fewer, 1 at least, of the longest video that survives with so many tokens."""
        low, high = 1, max(at_most, 1)
        while low < high:
            frames = (low + high + 1) // 2
            kept = len(self.stretch(even_times(frames))[0]) - self.dropped(frames)
            low, high = (frames, high) if kept <= min(tokens, self.most) else (low, frames - 1)
        return low

    def begun(self, prompt: Iterable[int]) -> list[int]:
        """A prompt's tokens with the one that begins all. Raises ValueError for those that only a video brings."""
        prompt, tokenizer = list(prompt), self.processor.tokenizer
        if found := sorted(set(prompt) & set(self.marker_ids.tolist())):
            token = tokenizer.convert_ids_to_tokens(found[0])
            raise ValueError(f"the prompt contains the special token {token!r}: remove it from the text")
        first = tokenizer.convert_tokens_to_ids(self.processor.conversation.begin)
        return prompt if prompt[:1] == [first] else [first, *prompt]


def even_times(frames: int) -> list[float]:
    """Seconds of so many frames."""
    return [number / FPS for number in range(frames)]
