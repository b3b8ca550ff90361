"""A clip and a conversation -> the tensors transformers' GLM-4.1V and GLM-4.6V take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..video.pixels import CLIP, Scale
from .flat import FlatProcessor, since_first
from .merge_units import Frames

if TYPE_CHECKING:
    from ..video.read import Clip

IMAGE, START, END = "<|image|>", "<|begin_of_image|>", "<|end_of_image|>"


@dataclass(frozen=True)
class GlmFrames(Frames):
    """Bounds are those of the whole clip."""

    video_processor: ClassVar[str] = "Glm4vVideoProcessor"
    scale: ClassVar[Scale] = CLIP
    patch_size: int = 14
    min_pixels: int = 112 * 112
    max_pixels: int = 28 * 28 * 2 * 30000

    def settings(self) -> dict[str, Any]:
        unknown = ("cap_pixels_per_frame", "max_video_tokens")
        return {name: value for name, value in super().settings().items() if name not in unknown}


class Glm4vProcessor(FlatProcessor):
    """Text and pixels of Glm4vProcessor: every unit is an image, its time in whole seconds behind it."""

    model_types: ClassVar[tuple[str, ...]] = ("glm4v",)
    family, theirs = "GLM-4.1V", "Glm4vProcessor"
    tokens = (IMAGE, "<|video|>", START, END, "<|begin_of_video|>", "<|end_of_video|>")
    written, placeholder, placeholder_setting = "<|video|>", IMAGE, "image_token_id"
    frames_type = GlmFrames

    def video_string(self, clip: Clip) -> str:
        _, rows, cols = self.window_grid(clip)
        times = since_first(clip)[:: self.unit_frames]
        return "".join(f"{START}{IMAGE * (rows * cols)}{END}{self.time(time)}" for time in times)

    def time(self, seconds: float) -> str:
        """A moment as it is written."""
        return str(int(seconds))


@dataclass(frozen=True)
class Glm46Frames(GlmFrames):
    """The same; only which frames are taken differs, which is ours to say."""

    video_processor: ClassVar[str] = "Glm46VVideoProcessor"


class Glm46VProcessor(Glm4vProcessor):
    """Text and pixels of Glm46VProcessor."""

    model_types = ("glm46v",)
    family, theirs = "GLM-4.6V", "Glm46VProcessor"
    frames_type = Glm46Frames

    def time(self, seconds: float) -> str:
        return f"{seconds:.1f} seconds"
