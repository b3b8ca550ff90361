"""From a model's name to an answer about a clip, in two calls."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from .data.feed.budget import past_context
from .data.feed.collator import Collator
from .data.processors.base import Processor
from .data.prompts import multiple_choice_prompt
from .data.video.read import Clip
from .files.model_folder import one_line
from .hosts.folders import ModelSpec
from .hosts.load import default_device, load_model
from .hosts.sizes import OWN_MODELS, TRAINED
from .pruning.config import STTSConfig

logger = logging.getLogger(__name__)


def load(name: str = "tiny", device: str | None = None, **settings: Any) -> tuple[nn.Module, Processor]:
    """A model ready to answer, and its processor.

    name: "tiny" or "tiny_qwen3_vl" (come with the package), a folder, or a hub id such as "allenai/Molmo2-4B" or
    "Qwen/Qwen3-VL-4B-Instruct"; device: by default CUDA where there is one; settings: fields of STTSConfig, e.g.
    prune_ratio=0.5. Raises ValueError as stts.hosts.load.load_model does, and for a device that is not there.
    """
    if not isinstance(name, str | PathLike) or not str(name).strip():
        raise ValueError(f'name is {name!r}, must be "tiny", a folder, or a hub id such as allenai/Molmo2-4B')
    stts = STTSConfig.from_dict(settings)
    device = check_device(device or default_device())
    model, processor = load_model(spec_of(name), stts, key="name")
    return model.to(device), processor


def spec_of(name: str | PathLike) -> ModelSpec:
    """What `load` understands by a name."""
    own = name in OWN_MODELS
    return ModelSpec(name=name, pretrained=name in TRAINED) if own else ModelSpec(path=str(name))


def check_device(device: str | torch.device) -> torch.device:
    """The device. Raises ValueError when torch does not know it or cannot use it here."""
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (
        RuntimeError,
        AssertionError,
        TypeError,
        NotImplementedError,
    ) as error:  # torch's many ways to say no
        raise ValueError(f"device is {device!r}, which torch cannot use here: {one_line(error)}") from error


def answer(
    model: nn.Module,
    processor: Processor,
    question: str,
    clip: Clip | None = None,
    options: Sequence[str] = (),
    **generation: Any,
) -> str:
    """Ask a model about a clip and return its reply.

    question: free text; options: of a multiple-choice question, which is then answered by a letter; generation:
    options of transformers' generate, 64 new tokens at most by default. What was kept of the clip is in
    model.last_keep_windows afterwards, of this thread. A prompt past the model's context is asked, with a warning.
    Raises ValueError for a question, options or a clip that are none.
    """
    inputs = prompt_inputs(processor, question, clip, options, model.device)
    warn_past_context(processor, model.stts, inputs | {"input_ids": inputs["input_ids"][0]})
    tokens = model.generate(**{"max_new_tokens": 64} | generation, **inputs)
    new = tokens[0, inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(new, skip_special_tokens=True).strip()


def warn_past_context(processor: Processor, stts: STTSConfig, example: dict[str, Tensor]) -> None:
    """Say so when an example of the processor's goes past the positions that its model was made for."""
    collate = Collator(processor.pad_token_id, stts.prune_ratio, video_form=processor.video_form)
    tokens, size = len(example["input_ids"]), collate.size(example)
    if past := past_context(tokens, size, processor.context_length, stts.position_ids):
        logger.warning("the prompt has %s", past)


def prompt_inputs(
    processor: Processor,
    question: str,
    clip: Clip | None = None,
    options: Sequence[str] = (),
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """A batch of one prompt, as the model's forward and generate take it."""
    no_options = options is None or (isinstance(options, list | tuple) and not options)
    text = question if no_options else multiple_choice_prompt(question, options)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"question is {question!r}, must be text")
    example = processor([{"role": "user", "content": text}], clip, add_generation_prompt=True)
    batch = Collator(processor.pad_token_id, video_form=processor.video_form)([example])
    return {k: v.to(device) for k, v in batch.items() if isinstance(v, Tensor) and k != "labels"}
