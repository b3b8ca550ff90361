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

from ...data.processors.molmo2 import VIDEO_TOKEN, VideoProcessor
from ...data.video.read import Clip
from ...hosts.sizes import POOL_WIDTH
from ..prompts import PromptSizes, even_times
from .loader import FRAMES
from .settings import settings_of

TEXT_TOKENS = 64
"""Left for the question in the longest prompt that memory is measured with."""


class Info(BaseProcessingInfo):
    """Sizes, known before any video is encoded."""

    @cached_property
    def sizes(self) -> PromptSizes:
        processor = VideoProcessor.from_pretrained(self.model_id, pool_width=POOL_WIDTH)
        return PromptSizes(
            processor, settings_of(self.ctx.model_config), self.get_hf_config().most_video_tokens
        )

    def get_hf_processor(self, **kwargs: object) -> VideoProcessor:
        return self.sizes.processor

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

    def max_frames(self, seq_len: int) -> int:
        """Frames of the longest video that a prompt of seq_len tokens can have, no more than the server takes."""
        taken = self.ctx.get_mm_config().media_io_kwargs["video"].get("num_frames", FRAMES)
        return self.sizes.most_frames(seq_len - TEXT_TOKENS, taken)

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        return {"video": self.sizes.kept(even_times(self.max_frames(seq_len)))}


class Dummy(BaseDummyInputsBuilder[Info]):
    """The longest video, to measure memory with."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        return VIDEO_TOKEN * mm_counts.get("video", 0)

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Mapping[str, object]
    ) -> dict:
        frames, side = self.info.max_frames(seq_len), self.info.sizes.processor.image_size
        video = np.zeros((frames, side, side, 3), np.uint8)
        metadata = {"timestamps": even_times(frames), "do_sample_frames": False}
        return {"video": [(video, metadata)] * mm_counts.get("video", 0)}


class Processor(BaseMultiModalProcessor[Info]):
    """Videos as PooledVideos has them, and of each the tokens of its whole stretch, and which are visual."""

    def _postprocess_prompt(self, prompt: list[int]) -> list[int]:
        return self.info.sizes.begun(prompt)

    def _apply_hf_processor_main(self, mm_items, hf_kwargs: Mapping[str, object]) -> BatchFeature:
        videos = [mm_items["video"][i] for i in range(mm_items.get_count("video", strict=False))]
        if not videos:
            return BatchFeature()
        sizes = self.info.sizes
        clips = [Clip(np.asarray(frames), np.asarray(seconds(metadata))) for frames, metadata in videos]
        examples = [sizes.processor.video_tensors(clip) for clip in clips]
        ids, visual = zip(*(sizes.stretch(clip.timestamps.tolist()) for clip in clips), strict=True)
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
        sizes = self.info.sizes

        def replacement(item: int) -> PromptUpdateDetails:
            _, metadata = mm_items["video"][item]
            return PromptUpdateDetails.from_seq([sizes.window_id] * sizes.kept(seconds(metadata)))

        return [PromptReplacement(modality="video", target=[sizes.video_id], replacement=replacement)]


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
