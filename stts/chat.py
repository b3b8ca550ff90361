"""From a model's name to an answer about a clip, in two calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .config import STTSConfig
from .data.collator import Collator
from .data.processing import VideoProcessor, multiple_choice_prompt
from .data.video import Clip
from .models import ModelSpec, default_device, load_model
from .molmo2 import STTSMolmo2ForConditionalGeneration


def load(
    name: str = "tiny", device: str | None = None, **settings: Any
) -> tuple[STTSMolmo2ForConditionalGeneration, VideoProcessor]:
    """A model ready to answer, and its processor.

    name: "tiny" (comes with the package), a folder, or a hub id such as "allenai/Molmo2-4B"; device: CUDA where
    there is one by default; settings: fields of STTSConfig, e.g. prune_ratio=0.5. Raises ValueError as
    stts.models.load_model does.
    """
    spec = ModelSpec(name="tiny") if name == "tiny" else ModelSpec(path=name)
    model, processor = load_model(spec, STTSConfig(**settings))
    return model.to(device or default_device()), processor


def answer(
    model: nn.Module,
    processor: VideoProcessor,
    question: str,
    clip: Clip | None = None,
    options: Sequence[str] = (),
    **generation: Any,
) -> str:
    """Ask a model about a clip and return its reply.

    question: free text; options: of a multiple-choice question, which is then answered by a letter; generation:
    options of transformers' generate, 64 new tokens at most by default. What was kept of the clip is in
    model.last_keep_windows afterwards.
    """
    inputs = prompt_inputs(processor, question, clip, options, model.device)
    tokens = model.generate(**{"max_new_tokens": 64} | generation, **inputs)
    new = tokens[0, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(new, skip_special_tokens=True).strip()


def prompt_inputs(
    processor: VideoProcessor,
    question: str,
    clip: Clip | None = None,
    options: Sequence[str] = (),
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """A batch of one prompt, as the model's forward and generate take it."""
    text = multiple_choice_prompt(question, options) if options else question
    example = processor([{"role": "user", "content": text}], clip, add_generation_prompt=True)
    batch = Collator(processor.pad_token_id)([example])
    return {k: v.to(device) for k, v in batch.items() if isinstance(v, Tensor) and k != "labels"}
