"""A clip and a conversation -> the tensors transformers' SmolVLM2 takes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.smolvlm.processing_smolvlm import (
    DEFAULT_CHAT_TEMPLATE,
    DEFAULT_MEDIA_OUTTRO,
    DEFAULT_VIDEO_INTRO,
)

from ..video.pixels import HALF
from .flat import since_first
from .pictures import PictureProcessor
from .squares import Squares, interpolation

if TYPE_CHECKING:
    from ..video.read import Clip

IMAGE, FAKE, WHOLE = "<image>", "<fake_token_around_image>", "<global-img>"


class SmolVLMProcessor(PictureProcessor):
    """Text and pixels of SmolVLMProcessor: how many frames, how long the clip is, then each under its time."""

    model_types = ("smolvlm",)
    family, theirs = "SmolVLM2", "SmolVLMProcessor"
    tokens = (IMAGE, FAKE, WHOLE)
    written, placeholder = "<video>", IMAGE
    scale = HALF

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *args: Any, **kwargs: Any) -> None:
        tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE  # the only one that transformers writes videos with
        super().__init__(tokenizer, *args, **kwargs)

    @classmethod
    def squares_of(cls, settings: Mapping[str, Any]) -> Squares:
        size = (settings.get("video_sampling") or {}).get("video_size") or settings.get("size") or {}
        side = (settings.get("max_image_size") or {}).get("longest_edge", 364)
        return Squares(side, interpolation(settings, "lanczos"), first=size.get("longest_edge"))

    @classmethod
    def across_of(cls, config: PreTrainedConfig) -> int:
        return config.vision_config.image_size // config.vision_config.patch_size // config.scale_factor

    def video_string(self, clip: Clip) -> str:
        times = since_first(clip)
        text = DEFAULT_VIDEO_INTRO.format(
            frame_count=in_words(len(times)), video_duration=timedelta(seconds=int(times[-1]))
        )
        shown = f"{FAKE}{WHOLE}{IMAGE * self.across**2}{FAKE}"
        for time in times:
            text += f"\nFrame from {int(time // 60):02d}:{int(time % 60):02d}:{shown}"
        return text + DEFAULT_MEDIA_OUTTRO


SMALL = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def in_words(number: int) -> str:
    """A number up to 999999 in English: "two hundred and fifty-six", "one thousand and twenty-four"."""
    if number < 20:
        return SMALL[number]
    if number < 100:
        ten, one = divmod(number, 10)
        return TENS[ten - 2] + (f"-{SMALL[one]}" if one else "")
    if number < 1000:
        hundred, rest = divmod(number, 100)
        return f"{SMALL[hundred]} hundred" + (f" and {in_words(rest)}" if rest else "")
    thousand, rest = divmod(number, 1000)
    text = f"{in_words(thousand)} thousand"
    if not rest:
        return text
    return f"{text} and {in_words(rest)}" if rest < 100 else f"{text}, {in_words(rest)}"
