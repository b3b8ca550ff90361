"""A Molmo2 of 0.7 million parameters that needs no download: transformers' own class in an ordinary folder.

It fits the clips of stts.data.synthetic.clips: 72 px frames of 9 x 9 patches, 9 windows of 3 x 3. Six ViT blocks
leave room for the whole method: scores after block 3, key bias in block 4, block 5 on kept patches only,
features of blocks 5 and 4 for the adapter.

`shipped_folder` holds trained weights (stts/curriculum/stages.py says how they were made); `make_tiny` writes random
ones, chosen to learn on a CPU. Keys start as copies of the queries: from the first step on, attention looks for
tokens like the one that asks. Its logits are small, so that a token, most like itself, does not see only itself,
and positions turn most channels slowly: a question a few hundred tokens away from a frame still finds it. Word
embeddings are wide (standard deviation 0.3), so that visual tokens can come to lie near the words that name
them; that of a visual token's placeholder, which is added to it, is small. Head and embeddings are not tied, as
in Molmo2.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    GenerationConfig,
    Molmo2Config,
    Molmo2ForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from ..data.synthetic import clips as synthetic
from ..files.make_once import make_once
from .sizes import HEAD_DIM, TINY, TRAINED, Sizes

VERSION = 2
"""Raise it when the same seed would give another model: folders of other versions are made anew."""

PAD, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
EXTRA_TOKENS = (
    "<im_start>",
    "<im_end>",
    "<im_patch>",
    "<im_col>",
    "<low_res_im_start>",
    "<|image|>",
    "<im_low>",
    "<frame_start>",
    "<frame_end>",
    "<|video|>",
)
"""Molmo2's additional vocabulary, in its order: after the base vocabulary, beyond what the head predicts."""

WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How text is cut before bytes are merged: words with their space, digits one by one, as Molmo2's LLMs do."""

CHAT_TEMPLATE = """\
{%- set ns = namespace(media='') -%}
{%- for message in messages if message['content'] is not string -%}
  {%- for part in message['content'] if part['type'] in ('image', 'video') -%}
    {%- set ns.media = ns.media ~ '<|' ~ part['type'] ~ '|>' -%}
  {%- endfor -%}
{%- endfor -%}
{{- ns.media -}}
{%- for message in messages -%}
  {%- if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}
    {{- raise_exception('turns must alternate: user, assistant, user, ...') -}}
  {%- endif -%}
  {{- '<|im_start|>' ~ message['role'] ~ '\\n' -}}
  {%- if message['content'] is string -%}
    {{- message['content'] -}}
  {%- else -%}
    {{- message['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text') | join(' ') -}}
  {%- endif -%}
  {%- if message['role'] == 'user' or not loop.last -%}
    {{- '<|im_end|>\\n' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
"""Videos first, then the turns; the last answer is left open. As Molmo2's own."""


ASSETS = Path(__file__).parents[1] / "assets"


def shipped_folder(name: str = "tiny") -> Path:
    """The folder of the trained weights of that name (sizes.TRAINED) that comes with the package.

    Raises ValueError for a model of which none come, and where the package was installed without them.
    """
    if name not in TRAINED:
        raise ValueError(f"no trained weights of {name} come with the package: set model.pretrained=false")
    folder = ASSETS / name
    if not (folder / "model.safetensors").is_file():
        raise ValueError(
            f"the weights of {name} are not in {folder}: install the package again, make them with "
            f"`python scripts/make_tiny.py host={TRAINED[name]}`, or take random ones with model.pretrained=false"
        )
    return folder


def make_tiny(folder: str | Path, seed: int = 0) -> Path:
    """Write the tiny model with random weights: config.json, model.safetensors, tokenizer, chat template.

    The same seed gives the same weights, byte for byte; a folder made with it earlier is returned as it is.
    Raises ValueError for a negative seed and when the folder holds other files.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}, must be 0 or more")
    settings = {"tiny": VERSION, "words": synthetic.VERSION, "seed": seed}
    return make_once(folder, settings, lambda partial: _write_model(partial, seed))


def _write_model(folder: Path, seed: int) -> None:
    tokenizer = build_tokenizer([*synthetic.vocabulary_texts(), "user", "assistant"])
    with torch.random.fork_rng(devices=[]):  # building it draws weights that are not kept
        model = Molmo2ForConditionalGeneration(build_config(tokenizer))
    _initialise(model, torch.Generator().manual_seed(seed))
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model.generation_config = GenerationConfig(**ids, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def build_tokenizer(
    texts: list[str], extra_tokens: Sequence[str] = EXTRA_TOKENS, chat_template: str = CHAT_TEMPLATE
) -> PreTrainedTokenizerFast:
    """Byte pairs merged until every word of the texts is one token; any other text falls apart into bytes.

    Round-trips all of Unicode. The special tokens of a conversation close the base vocabulary, so that the
    head can predict them; extra_tokens follow it.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1000, min_frequency=1, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([PAD, TURN_START, TURN_END, *extra_tokens])
    names = {"bos_token": TURN_END, "eos_token": TURN_END, "pad_token": PAD}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **names,
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
        model_max_length=8192,
    )


def build_config(tokenizer: PreTrainedTokenizerFast, sizes: Sizes = TINY) -> Molmo2Config:
    """A Molmo2 of these sizes; the numbers of its special tokens are the tokenizer's."""
    token = tokenizer.convert_tokens_to_ids
    vision, text = _attention(sizes.vision_width), _attention(sizes.llm_width)
    return Molmo2Config(
        vision_config={
            **vision,
            "intermediate_size": sizes.vision_mlp,
            "num_hidden_layers": sizes.vision_blocks,
            "image_size": [sizes.image, sizes.image],
            "patch_size": sizes.patch,
        },
        adapter_config={
            **vision,
            "intermediate_size": sizes.llm_mlp,
            "text_hidden_size": sizes.llm_width,
            "vision_feature_layer": list(sizes.features),
        },
        text_config={
            **text,
            "intermediate_size": sizes.llm_mlp,
            "num_hidden_layers": sizes.llm_layers,
            "vocab_size": token(EXTRA_TOKENS[0]),
            "additional_vocab_size": len(EXTRA_TOKENS),
            "max_position_embeddings": tokenizer.model_max_length,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e7},
        },
        image_start_token_id=token("<im_start>"),
        low_res_image_start_token_id=token("<low_res_im_start>"),
        image_end_token_id=token("<im_end>"),
        image_patch_id=token("<im_patch>"),
        frame_start_token_id=token("<frame_start>"),
        frame_end_token_id=token("<frame_end>"),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _attention(width: int) -> dict[str, int]:
    heads = width // HEAD_DIM
    return {
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": HEAD_DIM,
    }


@torch.no_grad()
def _initialise(model: nn.Module, generator: torch.Generator) -> None:
    """Fill every parameter from the generator, whatever transformers put there."""
    for name, weight in sorted(model.named_parameters()):
        if weight.ndim == 1:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            weight.normal_(std=_spread(name, weight.shape[-1]), generator=generator)
    model.get_input_embeddings().weight[model.config.image_patch_id] *= 0.3
    for layer in model.model.language_model.layers:
        layer.self_attn.k_proj.weight.copy_(layer.self_attn.q_proj.weight)


def _spread(name: str, fan_in: int) -> float:
    """Standard deviation of a matrix: keeps the scale of what it reads, less where blocks add up."""
    if name.endswith("embed_tokens.weight"):
        return 0.3
    if name.endswith("positional_embedding"):
        return 0.1
    adds_up = name.endswith(("self_attn.o_proj.weight", "mlp.fc2.weight", "mlp.down_proj.weight"))
    return fan_in**-0.5 * (0.3 if adds_up else 1.0)
