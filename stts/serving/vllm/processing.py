"""A request's video and prompt -> patches and placeholders, by the library's own processor (no torchvision)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from transformers import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import MultiModalDataParser
from vllm.multimodal.processing import (
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
    PromptUpdateDetails,
)
from vllm.multimodal.processing.dummy_inputs import BaseDummyInputsBuilder

from ...data.processors.molmo2 import MULTIMODAL_TOKENS, VIDEO_TOKEN, VideoProcessor
from ...data.video.read import Clip
from ...hosts.sizes import POOL_WIDTH
from ...pruning.config import STTSConfig
from ...pruning.selection import num_dropped
from ...pruning.windows import window_grid
from ..layout import MOST_TOKENS
from .loader import FPS, FRAMES
from .settings import settings_of

TEXT_TOKENS = 64
"""Left for the question in the longest prompt that memory is measured with."""


class Info(BaseProcessingInfo):
    """Sizes, known before any video is encoded."""

    @cached_property
    def stts(self) -> STTSConfig:
        return settings_of(self.ctx.model_config)

    @cached_property
    def processor(self) -> VideoProcessor:
        return VideoProcessor.from_pretrained(self.model_id, pool_width=POOL_WIDTH)

    @cached_property
    def num_windows(self) -> int:
        """Of a frame."""
        rows, cols = window_grid(self.processor.grid, POOL_WIDTH)
        return rows * cols

    @cached_property
    def marker_ids(self) -> list[int]:
        """Tokens that see each other in both directions."""
        return self.processor.tokenizer.convert_tokens_to_ids(list(MULTIMODAL_TOKENS))

    def get_hf_processor(self, **kwargs: object) -> VideoProcessor:
        return self.processor

    def get_supported_mm_processor_kwargs(self) -> dict[str, set[str]]:
        return {}

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {"video": 1}

    def validate_num_items(self, modality: str, num_items: int) -> None:
        """Raises ValueError for anything but one video."""
        if modality != "video" and num_items:
            raise ValueError(
                f"the prompt brings {num_items} {modality}(s): models of stts are served with videos alone"
            )
        if num_items > 1:
            raise ValueError(f"the prompt brings {num_items} videos, must bring one at most: ask about each")

    def get_data_parser(self) -> MultiModalDataParser:
        return MultiModalDataParser(video_needs_metadata=True)

    def stretch(self, times: Sequence[float]) -> list[int]:
        """Tokens of a whole video with frames at these seconds, nothing dropped."""
        text = self.processor.video_string(times)
        return self.processor.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def dropped(self, frames: int) -> int:
        """Windows that a video of so many frames loses."""
        return num_dropped(frames, self.num_windows, self.stts.prune_ratio)

    def kept(self, times: Sequence[float]) -> int:
        """Tokens of a video that survive. Raises ValueError where they are more than a prompt may bring at once."""
        total, dropped = len(self.stretch(times)), self.dropped(len(times))
        most = self.get_hf_config().most_video_tokens
        if total > MOST_TOKENS or total - dropped > most:
            raise ValueError(
                f"the video has {len(times)} frames, {total:,} tokens, {total - dropped:,} after pruning, and must "
                f"go into the LLM in one piece of at most {most:,} (the least of --max-num-batched-tokens and "
                f"--max-model-len; {MOST_TOKENS:,} before pruning): take fewer frames (num_frames in "
                "media_io_kwargs) or drop more"
            )
        return total - dropped

    def max_frames(self, seq_len: int) -> int:
        """Frames of the longest video that a prompt of seq_len tokens can have, no more than the server takes."""
        taken = self.ctx.get_mm_config().media_io_kwargs["video"].get("num_frames", FRAMES)
        low, high = 1, max(taken, 1)
        while low < high:
            frames = (low + high + 1) // 2
            fits = len(self.stretch(even_times(frames))) - self.dropped(frames) + TEXT_TOKENS <= seq_len
            low, high = (frames, high) if fits else (low, frames - 1)
        return low

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        frames = self.max_frames(min(seq_len, self.get_hf_config().most_video_tokens))
        return {"video": len(self.stretch(even_times(frames))) - self.dropped(frames)}


class Dummy(BaseDummyInputsBuilder[Info]):
    """The longest video, to measure memory with."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        return VIDEO_TOKEN * mm_counts.get("video", 0)

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Mapping[str, object]
    ) -> dict:
        frames = self.info.max_frames(min(seq_len, self.info.get_hf_config().most_video_tokens))
        side = self.info.processor.image_size
        video = np.zeros((frames, side, side, 3), np.uint8)
        metadata = {"timestamps": even_times(frames), "do_sample_frames": False}
        return {"video": [(video, metadata)] * mm_counts.get("video", 0)}


class Processor(BaseMultiModalProcessor[Info]):
    """Videos as PooledVideos has them, and of each the tokens of its whole stretch, and which are visual."""

    def _postprocess_prompt(self, prompt: list[int]) -> list[int]:
        """The prompt with its first token in front. Raises ValueError for special tokens that only a video brings."""
        processor = self.info.processor
        if found := set(prompt) & set(self.info.marker_ids):
            token = processor.tokenizer.convert_ids_to_tokens(min(found))
            raise ValueError(f"the prompt contains the special token {token!r}: remove it from the text")
        first = processor.tokenizer.convert_tokens_to_ids(processor.bos_token)
        return prompt if prompt and prompt[0] == first else [first, *prompt]

    def _apply_hf_processor_main(self, mm_items, hf_kwargs: Mapping[str, object]) -> BatchFeature:
        videos = [mm_items["video"][i] for i in range(mm_items.get_count("video", strict=False))]
        if not videos:
            return BatchFeature()
        info = self.info
        clips = [Clip(np.asarray(frames), np.asarray(seconds(metadata))) for frames, metadata in videos]
        examples = [info.processor.video_tensors(clip) for clip in clips]
        ids = [torch.tensor(info.stretch(clip.timestamps.tolist())) for clip in clips]
        visual = [torch.isin(x, torch.tensor(info.marker_ids)) for x in ids]
        return BatchFeature(
            {
                "pixel_values_videos": torch.cat([x["pixel_values_videos"] for x in examples]),
                "video_grids": torch.cat([x["video_grids"] for x in examples]),
                "video_ids": torch.cat(ids),
                "video_visual": torch.cat(visual),
                "video_num_ids": torch.tensor([len(x) for x in ids]),
            }
        )

    def _get_mm_fields_config(self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]):
        frames = hf_inputs.get("video_grids", torch.empty(0, 3))[:, 0]
        ids = hf_inputs.get("video_num_ids", torch.empty(0))
        field = MultiModalFieldConfig
        return {
            "pixel_values_videos": field.flat_from_sizes("video", frames),
            "video_grids": field.batched("video", keep_on_cpu=True),
            "video_ids": field.flat_from_sizes("video", ids),
            "video_visual": field.flat_from_sizes("video", ids),
            "video_num_ids": field.batched("video", keep_on_cpu=True),
        }

    def _get_prompt_updates(
        self, mm_items, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs
    ) -> Sequence[PromptReplacement]:
        tokenizer = self.info.processor.tokenizer
        placeholder = tokenizer.convert_tokens_to_ids("<im_patch>")

        def replacement(item: int) -> PromptUpdateDetails:
            _, metadata = mm_items["video"][item]
            return PromptUpdateDetails.from_seq([placeholder] * self.info.kept(seconds(metadata)))

        target = [tokenizer.convert_tokens_to_ids(VIDEO_TOKEN)]
        return [PromptReplacement(modality="video", target=target, replacement=replacement)]


def seconds(metadata: Mapping[str, object]) -> list[float]:
    """When each frame is shown: as our loader says, or by the frame's number. Raises ValueError where neither is
    told."""
    if metadata.get("timestamps") is not None:
        return list(metadata["timestamps"])
    fps = metadata.get("fps")
    if not fps or metadata.get("frames_indices") is None:
        raise ValueError(
            "a video of frames needs timestamps in its metadata, seconds, or fps and frames_indices"
        )
    return [number / fps for number in metadata["frames_indices"]]


def even_times(frames: int) -> list[float]:
    return [number / FPS for number in range(frames)]
