"""What transformers' Qwen3VLProcessor writes of a clip and a conversation: its own code, without its constructor."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from torch import Tensor
from transformers import Qwen3VLProcessor
from transformers.video_utils import VideoMetadata


def their_text(
    ours: Any,
    messages: Sequence[dict[str, str]],
    grid: Tensor,
    indices: Sequence[int],
    fps: float,
    add_generation_prompt: bool,
) -> str:
    """The whole prompt. ours: our processor, whose tokenizer has the chat template; grid: (1, 3) of the video;
    indices: of its frames, at so many a second."""
    theirs = object.__new__(Qwen3VLProcessor)
    names = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    names |= {"vision_start_token": "<|vision_start|>", "vision_end_token": "<|vision_end|>"}
    for name, token in names.items():
        setattr(theirs, name, token)
    theirs.video_processor = SimpleNamespace(merge_size=2, temporal_patch_size=2)
    metadata = VideoMetadata(total_num_frames=9999, fps=fps, frames_indices=list(indices))
    shown = theirs.replace_video_token({"video_grid_thw": grid, "video_metadata": [metadata]}, 0)
    turns = [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in messages]
    turns[0]["content"].insert(0, {"type": "video"})
    text = ours.tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=add_generation_prompt
    )
    return text.replace("<|video_pad|>", shown)
