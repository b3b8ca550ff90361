"""Sizes and pruning settings of a training run's config.yaml, as transformers' Molmo2Config and STTSConfig take them.

Only keys that say how tensors are used are read; everything else in the file is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import Molmo2Config

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
_SAME_AS = {
    "n_kv_heads": "n_heads",
    "embedding_size": "vocab_size",
    "max_position_embeddings": "max_sequence_length",
}
"""Keys of the LLM that may be null, and whose value they then have."""
_SPECIAL_TOKENS = {
    "image_start_token_id": 0,
    "image_end_token_id": 1,
    "image_patch_id": 2,
    "low_res_image_start_token_id": 4,
    "frame_start_token_id": 7,
    "frame_end_token_id": 8,
}
"""Places in the additional vocabulary."""
TAKE_LIKE = "take config.json from a folder of the same model instead: --like FOLDER"
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
    vit = _optional(_optional(model, "vision_backbone"), "vit")
    return {ours: vit[theirs] for ours, theirs in _STTS_SETTINGS.items() if vit.get(theirs) is not None}


def weight_tying(model: Mapping[str, Any]) -> bool:
    """Whether the output head is the table of words."""
    return _optional(model, "llm").get("weight_tying") is True


def molmo2_config(model: Mapping[str, Any]) -> Molmo2Config:
    """Sizes of a training config as transformers takes them, the ViT trimmed to its deepest feature.

    Special tokens follow the vocabulary in the order all Molmo2 have them. Raises ValueError listing keys that
    are missing or say what cannot be expressed.
    """
    backbone, llm = _section(model, "vision_backbone"), _section(model, "llm")
    vit = _section(backbone, "vit", "vision_backbone.")
    llm |= {key: llm.get(source) for key, source in _SAME_AS.items() if llm.get(key) is None}
    sizes = [key for key in _TEXT_SIZES.values() if key != "head_dim"]
    _expect(llm, [*sizes, "activation_type", "rope_theta"], "llm.")
    _expect(vit, _VISION_SIZES.values(), "vision_backbone.vit.")
    _expect(backbone, ["vit_layers"], "vision_backbone.")
    if llm.get("full_attention_layers") or llm.get("rope_type", "default") != "default":
        raise ValueError(f"config.yaml scales positions (llm.rope_type, full_attention_layers); {TAKE_LIKE}")
    try:
        return _build(llm, vit, list(backbone["vit_layers"]))
    except (StrictDataclassError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"config.yaml holds a value no Molmo2 has ({error}); {TAKE_LIKE}") from error


def _build(llm: dict[str, Any], vit: Mapping[str, Any], vit_layers: list[int]) -> Molmo2Config:
    """Sizes that may be null are filled in as the training code does."""
    llm["head_dim"] = llm.get("head_dim") or llm["d_model"] // llm["n_heads"]
    up_and_gate = llm.get("mlp_hidden_size") or llm["mlp_ratio"] * llm["d_model"]
    vision = {ours: vit[theirs] for ours, theirs in _VISION_SIZES.items()}
    shared = {
        "intermediate_size": up_and_gate // 2,
        "hidden_act": "silu" if llm["activation_type"] == "swiglu" else llm["activation_type"],
    }
    adapter = {name: vision[name] for name in _ADAPTER_SIZES} | shared
    adapter |= {"vit_layers": vit_layers, "text_hidden_size": llm["d_model"]}
    text = {ours: llm[theirs] for ours, theirs in _TEXT_SIZES.items()} | shared
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": float(llm["rope_theta"])}
    special = {name: text["vocab_size"] + place for name, place in _SPECIAL_TOKENS.items()}
    # as vit_config, transformers trims the layers
    return Molmo2Config(vit_config=vision, adapter_config=adapter, text_config=text, **special)


def _optional(parent: Mapping[str, Any], key: str) -> dict[str, Any]:
    section = parent.get(key)
    return dict(section) if isinstance(section, dict) else {}


def _section(parent: Mapping[str, Any], key: str, where: str = "") -> dict[str, Any]:
    if not (section := _optional(parent, key)):
        raise ValueError(f"config.yaml has no section model.{where}{key}; {TAKE_LIKE}")
    return section


def _expect(section: Mapping[str, Any], keys: Iterable[str], where: str) -> None:
    if missing := [f"model.{where}{key}" for key in keys if section.get(key) is None]:
        raise ValueError(f"config.yaml does not say {', '.join(missing)}; {TAKE_LIKE}")
