"""Molmo2 as its authors train it: the names of its tensors, and the sizes in its config.yaml.

The same tensors have three sets of names. *Published*: the training checkpoint, scorer included. *Released*:
Hugging Face folders, what from_pretrained reads and save_pretrained writes; one to one with the published ones.
*In memory*: transformers' modules, which keep q, k, v and up, gate apart and join the two tables of word
embeddings; transformers converts when it loads and saves. No tensor is changed on any of these ways.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import Molmo2Config

from .molmo2 import STTSMolmo2ForConditionalGeneration
from .scorer import PUBLISHED_NAMES

HEAD = "transformer.ff_out.weight"
"""Output head. Checkpoints trained with weight_tying have none: it is the table of words."""
WORDS, NEW_WORDS = "transformer.wte.embedding", "transformer.wte.new_embedding"
SCORER = "vision_backbone.image_vit.transformer.temporal_token_scorer."
VIT_LAYER = re.compile(r"vision_backbone\.image_vit\.transformer\.resblocks\.(\d+)\.")

Shapes = dict[str, tuple[int, ...]]

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
_PARTS = (  # in memory, published, the modules within; the first that matches counts
    (r"lm_head\.", "transformer.ff_out.", {}),
    (r"model\.language_model\.norm\.", "transformer.ln_f.", {}),
    (r"model\.language_model\.layers\.(\d+)\.", r"transformer.blocks.\1.", _LLM_BLOCK),
    (
        r"model\.vision_tower\.layers\.(\d+)\.",
        r"vision_backbone.image_vit.transformer.resblocks.\1.",
        _VIT_BLOCK,
    ),
    (r"model\.vision_tower\.scorer\.", SCORER, _SCORER),
    (r"model\.vision_tower\.", "vision_backbone.image_vit.", {}),
    (r"model\.multi_modal_projector\.", "vision_backbone.", _ADAPTER),
)


def published_shapes(config: Mapping | Molmo2Config) -> Shapes:
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
    name = re.sub(r"^(transformer\.blocks\.\d+)\.(att_proj|attn_out|q_norm|k_norm)\.", r"\1.self_attn.\2.", name)
    name = re.sub(r"^(transformer\.blocks\.\d+)\.(ff_proj|ff_out)\.", r"\1.mlp.\2.", name)
    return f"model.{name}"


_VISION_SIZES = {
    "hidden_size": "image_emb_dim",
    "intermediate_size": "image_mlp_dim",
    "num_hidden_layers": "image_num_layers",
    "num_attention_heads": "image_num_heads",
    "num_key_value_heads": "image_num_key_value_heads",
    "head_dim": "image_head_dim",
    "hidden_act": "image_mlp_activations",
    "layer_norm_eps": "image_norm_eps",
    "image_size": "image_default_input_size",
    "patch_size": "image_patch_size",
    "num_position_embeddings": "image_num_pos",
}
_TEXT_SIZES = {
    "hidden_size": "d_model",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "head_dim": "head_dim",
    "num_hidden_layers": "n_layers",
    "vocab_size": "embedding_size",
    "additional_vocab_size": "additional_vocab_size",
    "attention_bias": "qkv_bias",
    "qk_norm_type": "attention_layer_norm_type",
    "rms_norm_eps": "layer_norm_eps",
    "norm_after": "norm_after",
    "max_position_embeddings": "max_position_embeddings",
}
_STTS_SETTINGS = {
    "prune_ratio": "topk",
    "insert_after": "prune_at",
    "aux_loss_weight": "sim_reg_loss_coefficient",
    "bias_floor": "rescale_bias_min",
}
_ADAPTER_SIZES = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")


def read_training_config(path: Path) -> dict[str, Any]:
    """The model section of a config.yaml. Raises ValueError, naming the file, when there is none."""
    try:
        config = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    model = config.get("model") if isinstance(config, dict) else None
    if not isinstance(model, dict):
        raise ValueError(f"{path} has no model section; it must be the config.yaml of a training run")
    return model


def stts_settings(model: Mapping[str, Any]) -> dict[str, Any]:
    """What a training config says of pruning, under the names of STTSConfig; what it does not say is left out."""
    vit = (model.get("vision_backbone") or {}).get("vit") or {}
    return {ours: vit[theirs] for ours, theirs in _STTS_SETTINGS.items() if vit.get(theirs) is not None}


def molmo2_config(model: Mapping[str, Any]) -> Molmo2Config:
    """Sizes of a training config as transformers takes them, the ViT trimmed to its deepest feature.

    Raises ValueError listing the keys that are missing or cannot be expressed.
    """
    llm, backbone = _section(model, "llm"), _section(model, "vision_backbone")
    vit = _section(backbone, "vit", "vision_backbone.")
    for spare, key in (
        ("n_heads", "n_kv_heads"),
        ("vocab_size", "embedding_size"),
        ("max_sequence_length", "max_position_embeddings"),
    ):
        llm[key] = llm.get(key) or llm.get(spare)
    if "d_model" in llm:
        llm["head_dim"] = llm.get("head_dim") or llm["d_model"] // llm.get("n_heads", 1)
        llm["mlp_hidden_size"] = llm.get("mlp_hidden_size") or llm.get("mlp_ratio", 4) * llm["d_model"]
    _expect(llm, [*_TEXT_SIZES.values(), "mlp_hidden_size", "activation_type", "rope_theta"], "llm.")
    _expect(vit, _VISION_SIZES.values(), "vision_backbone.vit.")
    _expect(backbone, ["vit_layers"], "vision_backbone.")
    if llm.get("full_attention_layers") or llm.get("rope_type", "default") != "default":
        raise ValueError(f"config.yaml scales positions (rope_type, full_attention_layers); {_TAKE_LIKE}")
    vision = {ours: vit[theirs] for ours, theirs in _VISION_SIZES.items()}
    shared = {
        "intermediate_size": llm["mlp_hidden_size"] // 2,  # theirs counts up and gate
        "hidden_act": "silu" if llm["activation_type"] == "swiglu" else llm["activation_type"],
    }
    adapter = {name: vision[name] for name in _ADAPTER_SIZES} | shared
    text = {ours: llm[theirs] for ours, theirs in _TEXT_SIZES.items()} | shared
    rope = {"rope_type": "default", "rope_theta": float(llm["rope_theta"])}
    special = {name: n - 151936 + text["vocab_size"] for name, n in _SPECIAL_TOKENS.items()}
    return Molmo2Config(  # under this name transformers trims the layers
        vit_config=vision,
        adapter_config=adapter | {"vit_layers": list(backbone["vit_layers"]), "text_hidden_size": llm["d_model"]},
        text_config=text | {"rope_parameters": rope},
        **special,
    )


def training_config(config: Molmo2Config, tied: bool) -> dict[str, Any]:
    """Inverse of molmo2_config and stts_settings: what they read, no more; tied: the head is the word table."""
    vision, text, adapter = config.vision_config, config.text_config, config.adapter_config
    vit = {theirs: getattr(vision, ours) for ours, theirs in _VISION_SIZES.items()}
    vit |= {"prune": True, "prune_method": "scorer"}
    vit |= {theirs: config.stts[ours] for ours, theirs in _STTS_SETTINGS.items()}
    llm = {theirs: getattr(text, ours) for ours, theirs in _TEXT_SIZES.items()}
    llm |= {
        "mlp_hidden_size": 2 * text.intermediate_size,
        "activation_type": "swiglu" if text.hidden_act == "silu" else text.hidden_act,
        "rope_theta": text.rope_parameters["rope_theta"],
        "rope_type": text.rope_parameters["rope_type"],
        "weight_tying": tied,
    }
    return {"model": {"llm": llm, "vision_backbone": {"vit": vit, "vit_layers": adapter.vision_feature_layer}}}
