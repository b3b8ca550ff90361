"""A Qwen3-VL of less than a million parameters that needs no download: transformers' own class in an ordinary folder.

It fits the clips of stts.data.synthetic: a unit of two 72 px frames is 6 x 6 patches, 9 windows of 2 x 2. Six ViT
blocks leave room for the whole method, with one deepstack layer before the prune and one behind it. Random
weights are drawn so that it learns on a CPU, for the reasons that tiny.py gives for the tiny Molmo2; trained ones
come with the package (tiny.shipped_folder).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from ..data.processors.merge_units import Frames
from ..data.processors.qwen import QwenProcessor
from ..data.synthetic import clips as synthetic
from ..files.make_once import make_once
from .tiny import PAD, TURN_END, build_tokenizer

NAME = "tiny_qwen3_vl"
VERSION = 1
"""Raise it when the same seed would give another model: folders of other versions are made anew."""

EXTRA_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")

CHAT_TEMPLATE = """\
{%- for message in messages -%}
  {{- '<|im_start|>' ~ message['role'] ~ '\\n' -}}
  {%- if message['content'] is string -%}
    {{- message['content'] -}}
  {%- else -%}
    {%- for part in message['content'] -%}
      {%- if part['type'] in ('image', 'video') -%}
        {{- '<|vision_start|><|' ~ part['type'] ~ '_pad|><|vision_end|>' -}}
      {%- elif part['type'] == 'text' -%}
        {{- part['text'] -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
"""Videos where they stand among the turns, every turn closed. As Qwen3-VL's own."""

PATCH = 12
FRAMES = Frames(patch_size=PATCH, min_pixels=2 * (2 * PATCH) ** 2, max_pixels=256 * 72 * 72)
"""256 frames of the generated clips in full; larger videos are made smaller."""
IMAGES = {
    "image_processor_type": "Qwen2VLImageProcessorFast",
    "processor_class": "Qwen3VLProcessor",
    "size": {"shortest_edge": (2 * PATCH) ** 2, "longest_edge": 72 * 72},
    "patch_size": PATCH,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}


def make_tiny_qwen3_vl(folder: str | Path, seed: int = 0) -> Path:
    """Write the model with random weights, its tokenizer, chat template and the settings of its processor.

    The same seed gives the same weights, byte for byte; a folder made with it earlier is returned as it is.
    Raises ValueError for a negative seed and when the folder holds other files.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}, must be 0 or more")
    settings = {NAME: VERSION, "words": synthetic.VERSION, "seed": seed}
    return make_once(folder, settings, lambda partial: _write_model(partial, seed))


def _write_model(folder: Path, seed: int) -> None:
    texts = [*synthetic.vocabulary_texts(), "user", "assistant", "<0.5 seconds>"]
    tokenizer = build_tokenizer(texts, EXTRA_TOKENS, CHAT_TEMPLATE)
    with torch.random.fork_rng(devices=[]):  # building it draws weights that are not kept
        model = Qwen3VLForConditionalGeneration(build_config(tokenizer))
    _initialise(model, torch.Generator().manual_seed(seed))
    ids = {"eos_token_id": tokenizer.convert_tokens_to_ids(TURN_END)}
    model.generation_config = GenerationConfig(**ids, pad_token_id=tokenizer.convert_tokens_to_ids(PAD))
    model.save_pretrained(folder)
    QwenProcessor(tokenizer, FRAMES, IMAGES).save_pretrained(folder)


def build_config(tokenizer: PreTrainedTokenizerBase) -> Qwen3VLConfig:
    """A Qwen3-VL in small; the numbers of its special tokens are the tokenizer's."""
    start, end, image, video = tokenizer.convert_tokens_to_ids(list(EXTRA_TOKENS))
    return Qwen3VLConfig(
        vision_config={
            "depth": 6,
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_heads": 2,
            "patch_size": PATCH,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "out_hidden_size": 96,
            "num_position_embeddings": 36,
            "deepstack_visual_indexes": [3, 5],
        },
        text_config={
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "head_dim": 32,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": tokenizer.model_max_length,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e7,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_start_token_id=start,
        vision_end_token_id=end,
        image_token_id=image,
        video_token_id=video,
        tie_word_embeddings=False,
    )


@torch.no_grad()
def _initialise(model: nn.Module, generator: torch.Generator) -> None:
    """Fill every parameter from the generator, whatever transformers put there."""
    for name, weight in sorted(model.named_parameters()):
        if weight.ndim == 1:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            weight.normal_(std=_spread(name, weight[0].numel()), generator=generator)
    for layer in model.model.language_model.layers:
        layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)
    for block in model.model.visual.blocks:
        query, key, _ = block.attn.qkv.weight.chunk(3)
        key.copy_(query)


def _spread(name: str, fan_in: int) -> float:
    """Standard deviation of a matrix: keeps the scale of what it reads, less where blocks add up."""
    if name.endswith("embed_tokens.weight"):
        return 0.3
    if name.endswith("pos_embed.weight"):
        return 0.1
    adds_up = name.endswith(("o_proj.weight", "attn.proj.weight", "down_proj.weight")) or (
        ".blocks." in name and name.endswith("linear_fc2.weight")
    )
    return fan_in**-0.5 * (0.3 if adds_up else 1.0)
