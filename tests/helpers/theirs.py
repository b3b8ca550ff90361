"""transformers' own processors, run on objects without their constructors, which want torchvision.

What they call of it is a few functions: torch's own interpolation, subtracting the mean, cutting out the middle.
"""

from __future__ import annotations

import importlib
import sys
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import transformers.utils
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, image_processing_backends
from transformers.image_utils import SizeDict
from transformers.video_utils import VideoMetadata


def make_tokenizer(
    template: str, special: list[str], eos: str = "<|im_end|>", pad: str = "<|endoftext|>"
) -> Any:
    """Bytes and special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=alphabet,
        special_tokens=list(dict.fromkeys([*special, eos, pad])),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["user assistant"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=eos, pad_token=pad, chat_template=template
    )


def make_clip(count, height, width, times=None):
    frames = np.random.default_rng(count).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    times = np.arange(count) / 2 if times is None else np.array(times, dtype=np.float64)
    return SimpleNamespace(frames=frames, timestamps=times)


class Interpolation(Enum):
    LANCZOS = "lanczos"
    BICUBIC = "bicubic"


def resize(image, size, interpolation, antialias):
    new = F.interpolate(image.flatten(0, -4), size, mode=interpolation.value, antialias=antialias)
    return new.view(*image.shape[:-2], *size)


def normalized(image, mean, std, inplace):
    mean, std = (torch.as_tensor(values).view(-1, 1, 1) for values in (mean, std))
    return (image - mean) / std


def imported(family: str, name: str) -> type:
    """A video processor of transformers, whose file may want torchvision when it is loaded."""
    parts, known = ["torchvision", "transforms", "v2", "functional"], "is_torchvision_v2_available"
    stubs = {".".join(parts[:n]): ModuleType(parts[n - 1]) for n in range(1, len(parts) + 1)}
    for path, module in stubs.items():
        for child in stubs:
            if child.rpartition(".")[0] == path:
                setattr(module, child.rpartition(".")[2], stubs[child])
    functional = stubs[".".join(parts)]
    functional.resize, functional.InterpolationMode = resize, Interpolation
    with patch.dict(sys.modules, stubs), patch.object(transformers.utils, known, lambda: True):
        module = importlib.import_module(f"transformers.models.{family}.video_processing_{family}")
    return getattr(module, name)


def crop(image: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    return image[..., top : top + height, left : left + width]


def without_torchvision(monkeypatch: Any) -> None:
    """Let their code find those functions."""
    names = {"resize": resize, "normalize": normalized, "crop": crop}
    stub = SimpleNamespace(InterpolationMode=Interpolation, **names)
    monkeypatch.setattr(image_processing_backends, "tvF", stub, raising=False)


def their_pixels(monkeypatch: Any, processor: type, frames: np.ndarray, **settings: Any) -> Any:
    """What a video processor of transformers makes of a clip, its class's settings but for those given."""
    without_torchvision(monkeypatch)
    theirs = object.__new__(processor)
    names = ("size", "crop_size", "do_center_crop", "image_mean", "image_std")
    names += (
        "patch_size",
        "temporal_patch_size",
        "merge_size",
        "max_video_tokens",
        "do_pad",
        "max_image_size",
    )
    known = {name: getattr(processor, name) for name in names if hasattr(processor, name)} | settings
    known |= {name: tuple(known[name]) for name in ("image_mean", "image_std")}
    for name, value in known.items():
        setattr(theirs, name, value)
    sizes = {name: SizeDict(**known[name]) for name in ("size", "crop_size") if known.get(name)}
    resample = Interpolation[processor.resample.name]
    return theirs._preprocess(
        [torch.from_numpy(frames).permute(0, 3, 1, 2)],
        do_resize=True,
        resample=resample,
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        return_tensors="pt",
        **{"cap_pixels_per_frame": False, "crop_size": None, "do_pad": None, **known, **sizes},
    )


def metadata(indices: list[int], fps: float) -> VideoMetadata:
    """Of a clip of these frames of a video, which all lie equally far apart but for rounding."""
    step = (indices[-1] - indices[0]) / (len(indices) - 1)
    total = round(len(indices) * step)
    return VideoMetadata(total_num_frames=total, fps=fps, frames_indices=list(indices), duration=None)


def rendered(tokenizer: Any, messages: list[dict], kind: str = "video", prompt: bool = False) -> str:
    """The text of the template, a video in front of the first turn."""
    turns = [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in messages]
    turns[0]["content"].insert(0, {"type": kind})
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt)
