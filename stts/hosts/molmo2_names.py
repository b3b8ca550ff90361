"""What the tensors of a Molmo2 are called: by its authors' training code, on the hub, and in memory.

The same numbers have three sets of names. *Published*: a training checkpoint, scorer included. *Released*:
Hugging Face folders, what from_pretrained reads and save_pretrained writes; one to one with the published ones.
*In memory*: transformers' modules, which keep q, k, v and up, gate apart and join the two tables of word
embeddings; transformers converts when it loads and saves.
"""

from __future__ import annotations

import re

import torch
from transformers import Molmo2Config

from ..files.shards import Shapes
from ..pruning.scorer import PUBLISHED_NAMES
from .molmo2 import Molmo2, STTSMolmo2ForConditionalGeneration

HEAD = "transformer.ff_out.weight"
"""Output head. Checkpoints trained with weight_tying have none: it is the table of words."""
WORDS, NEW_WORDS = "transformer.wte.embedding", "transformer.wte.new_embedding"
SCORER = "vision_backbone.image_vit.transformer.temporal_token_scorer."
VIT_LAYER = re.compile(r"vision_backbone\.image_vit\.transformer\.resblocks\.(\d+)\.")

_LLM_BLOCK = {
    "self_attn.q_proj": "att_proj",  # q, k, v stacked in this order
    "self_attn.k_proj": "att_proj",
    "self_attn.v_proj": "att_proj",
    "self_attn.o_proj": "attn_out",
    "self_attn.q_norm": "q_norm",
    "self_attn.k_norm": "k_norm",
    "input_layernorm": "attn_norm",
    "mlp.up_proj": "ff_proj",  # up, then gate
    "mlp.gate_proj": "ff_proj",
    "mlp.down_proj": "ff_out",
    "post_attention_layernorm": "ff_norm",
}
_VIT_BLOCK = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.fc1": "feed_forward.w1",
    "mlp.fc2": "feed_forward.w2",
    "layer_norm1": "attention_norm",
    "layer_norm2": "ffn_norm",
}
_ADAPTER = {
    "image_pooling_2d.q_proj": "image_pooling_2d.wq",
    "image_pooling_2d.k_proj": "image_pooling_2d.wk",
    "image_pooling_2d.v_proj": "image_pooling_2d.wv",
    "image_pooling_2d.o_proj": "image_pooling_2d.wo",
    "image_projector.gate_proj": "image_projector.w1",
    "image_projector.down_proj": "image_projector.w2",
    "image_projector.up_proj": "image_projector.w3",
}
_SCORER = {ours: theirs for theirs, ours in PUBLISHED_NAMES.items()}
_VISION = re.escape(Molmo2.vision_at)
_PARTS = (  # in memory, published, the modules within; the first that matches counts
    (r"lm_head\.", "transformer.ff_out.", {}),
    (r"model\.language_model\.norm\.", "transformer.ln_f.", {}),
    (rf"{re.escape(Molmo2.layers_at)}\.(\d+)\.", r"transformer.blocks.\1.", _LLM_BLOCK),
    (
        rf"{_VISION}\.{Molmo2.blocks_at}\.(\d+)\.",
        r"vision_backbone.image_vit.transformer.resblocks.\1.",
        _VIT_BLOCK,
    ),
    (rf"{_VISION}\.scorer\.", SCORER, _SCORER),
    (rf"{_VISION}\.", "vision_backbone.image_vit.", {}),
    (r"model\.multi_modal_projector\.", "vision_backbone.", _ADAPTER),
)


def published_shapes(config: Molmo2Config) -> Shapes:
    """Published name and shape of every tensor of a model, scorer included. No memory is used for it."""
    with torch.device("meta"):
        model = STTSMolmo2ForConditionalGeneration(config)
    shapes: Shapes = {}
    for name, tensor in model.state_dict().items():
        if name == "model.language_model.embed_tokens.weight":
            words, width = config.text_config.vocab_size, tensor.shape[1]
            shapes |= {WORDS: (words, width), NEW_WORDS: (len(tensor) - words, width)}
        else:
            theirs = published_name(name)
            stacked = shapes[theirs][0] if theirs in shapes else 0
            shapes[theirs] = (stacked + len(tensor), *tensor.shape[1:])
    return shapes


def published_name(name: str) -> str:
    """In memory -> published; tensors that are stacked there share a name."""
    for pattern, theirs, modules in _PARTS:
        if match := re.match(pattern, name):
            module, dot, part = name[match.end() :].rpartition(".")
            return match.expand(theirs) + modules.get(module, module) + dot + part
    raise KeyError(name)


def released_name(name: str) -> str:
    """Published -> released."""
    if name == HEAD:
        return "lm_head.weight"
    if name.startswith(SCORER):
        module, _, part = name.removeprefix(SCORER).rpartition(".")
        return f"model.vision_backbone.image_vit.scorer.{PUBLISHED_NAMES[module]}.{part}"
    name = re.sub(
        r"^(transformer\.blocks\.\d+)\.(att_proj|attn_out|q_norm|k_norm)\.", r"\1.self_attn.\2.", name
    )
    name = re.sub(r"^(transformer\.blocks\.\d+)\.(ff_proj|ff_out)\.", r"\1.mlp.\2.", name)
    return f"model.{name}"


def of_vision_side(name: str) -> bool:
    """Whether a tensor of a saved folder, by its released name or its name in memory, is not the LLM's."""
    return any(part in name for part in ("vision_backbone.", "vision_tower.", "multi_modal_projector."))
