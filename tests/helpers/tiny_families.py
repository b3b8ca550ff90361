"""A folder of a tiny random model of each family, with its tokenizer and the settings of its processor.

The models are those of the battery, with the vocabulary of the generated clips; their frames are a few windows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from stts.data.synthetic import clips as synthetic
from stts.hosts.tiny import PAD, TURN_END, build_tokenizer
from tests.helpers.host_row import grown
from tests.helpers.hosts import rows

TEMPLATE = """\
{%- for m in messages -%}
{{ '<|im_start|>' ~ m['role'] ~ '\\n' }}
{%- for part in m['content'] -%}
{{ part['text'] if part['type'] == 'text' else 'VIDEO' }}
{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""


@dataclass(frozen=True)
class Tiny:
    """What a family's folder is made of."""

    module: str
    processor: str
    """By its file and name in stts.data.processors."""
    ids: dict[str, str]
    """Settings of config.json, and the tokens whose numbers they hold."""
    around: tuple[str, str] = ("", "")
    """What the template writes before and behind a video."""
    frames: dict[str, int] = field(default_factory=dict)
    """Of frames of any size: how they become patches."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of frames of one size: how they become pictures."""
    across: int = 3
    name: str | None = None
    """Of the battery's row, where it is not that of the family."""


QWEN = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
GLM = {
    "image_token_id": "<|image|>",
    "video_token_id": "<|video|>",
    "image_start_token_id": "<|begin_of_image|>",
    "image_end_token_id": "<|end_of_image|>",
    "video_start_token_id": "<|begin_of_video|>",
    "video_end_token_id": "<|end_of_video|>",
}
LLAVA = {"image_token_index": "<image>", "video_token_index": "<video>"}
MARKERS, GLM_MARKERS = ("<|vision_start|>", "<|vision_end|>"), ("<|begin_of_video|>", "<|end_of_video|>")
FRAME = {"patch_size": 4, "min_pixels": 64, "max_pixels": 24 * 24}
CLIP = FRAME | {"max_pixels": 6 * 24 * 24}
SQUARE = {"size": {"height": 24, "width": 24}}
TINY = {
    "qwen3_5": Tiny("qwen", "QwenProcessor", QWEN, frames=CLIP),
    "qwen2_5_vl": Tiny("qwen2_vl", "Qwen25VLProcessor", QWEN, MARKERS, FRAME),
    "qwen2_vl": Tiny("qwen2_vl", "Qwen2VLProcessor", QWEN, MARKERS, FRAME),
    "glm4v": Tiny("glm4v", "Glm4vProcessor", GLM, GLM_MARKERS, CLIP),
    "glm46v": Tiny("glm4v", "Glm46VProcessor", GLM, GLM_MARKERS, CLIP),
    "video_llama_3": Tiny(
        "video_llama_3", "VideoLlama3Processor", {k: QWEN[k] for k in list(QWEN)[:2]}, frames=CLIP
    ),
    "llava_onevision": Tiny(
        "llava",
        "LlavaOnevisionProcessor",
        LLAVA,
        settings={"size": {"height": 28, "width": 28}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        across=4,
    ),
    "llava_next_video": Tiny(
        "llava",
        "LlavaNextVideoProcessor",
        LLAVA,
        settings={"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}},
    ),
    "internvl": Tiny("internvl", "InternVLProcessor", {"image_token_id": "<IMG_CONTEXT>"}, settings=SQUARE),
    "smolvlm": Tiny(
        "smolvlm",
        "SmolVLMProcessor",
        {"image_token_id": "<image>"},
        settings={"size": {"longest_edge": 24}, "max_image_size": {"longest_edge": 24}},
        across=2,
    ),
    "idefics3": Tiny(
        "idefics3",
        "Idefics3Processor",
        {"image_token_id": "<image>"},
        settings={"size": {"longest_edge": 48}, "max_image_size": {"longest_edge": 24}},
        across=2,
    ),
    "gemma4": Tiny(
        "gemma4",
        "Gemma4Processor",
        {
            "image_token_id": "<|image|>",
            "video_token_id": "<|video|>",
            "audio_token_id": "<|audio|>",
            "boi_token_id": "<|image>",
            "eoi_token_id": "<image|>",
        },
        frames={"patch_size": 4, "pooling_kernel_size": 3, "max_soft_tokens": 70},
    ),
    "gemma3": Tiny(
        "gemma3",
        "Gemma3Processor",
        {
            "image_token_index": "<image_soft_token>",
            "boi_token_index": "<start_of_image>",
            "eoi_token_index": "<end_of_image>",
        },
        settings=SQUARE,
    ),
}
"""By the model_type of config.json, all but those that come with the library."""


def make_tiny_family(name: str, folder: Path) -> Path:
    """Write a family's folder: what a user downloads of a real one."""
    tiny = TINY[name]
    cls = getattr(import_module(f"stts.data.processors.{tiny.module}"), tiny.processor)
    template = TEMPLATE.replace("VIDEO", cls.written.join(tiny.around))
    special = tuple(dict.fromkeys([*cls.tokens, *tiny.ids.values()]))
    tokenizer = build_tokenizer([*synthetic.vocabulary_texts(), "user assistant"], special, template)
    (row,) = [row for row in rows() if row.name == name]
    made = row.plain()
    config = made.config
    for setting in ("vocab_size", "vocab_size_per_layer_input"):
        if hasattr(config.text_config, setting):
            setattr(config.text_config, setting, len(tokenizer))
    config.text_config.pad_token_id = tokenizer.pad_token_id
    for setting, token in tiny.ids.items():
        setattr(config, setting, tokenizer.convert_tokens_to_ids(token))
    torch.manual_seed(0)
    model = grown(type(made)(config))
    ids = {"eos_token_id": tokenizer.convert_tokens_to_ids(TURN_END)}
    model.generation_config = GenerationConfig(**ids, pad_token_id=tokenizer.convert_tokens_to_ids(PAD))
    model.save_pretrained(folder)
    if tiny.frames:
        processor = cls(tokenizer, cls.frames_type(**tiny.frames))
    else:
        processor = cls(tokenizer, tiny.across, tiny.settings)
    processor.save_pretrained(folder)
    return folder
