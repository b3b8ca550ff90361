"""A model folder in the key layout Molmo2 was released in, written out name by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Molmo2Config

VIT_BLOCK = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.fc1": "feed_forward.w1",
    "mlp.fc2": "feed_forward.w2",
    "layer_norm1": "attention_norm",
    "layer_norm2": "ffn_norm",
}
ADAPTER = {
    "image_pooling_2d.q_proj": "image_pooling_2d.wq",
    "image_pooling_2d.k_proj": "image_pooling_2d.wk",
    "image_pooling_2d.v_proj": "image_pooling_2d.wv",
    "image_pooling_2d.o_proj": "image_pooling_2d.wo",
    "image_projector.gate_proj": "image_projector.w1",
    "image_projector.down_proj": "image_projector.w2",
    "image_projector.up_proj": "image_projector.w3",
}


def released_tensors(state: dict[str, Tensor], config: Molmo2Config) -> dict[str, Tensor]:
    """transformers' names -> the released ones: q, k, v stacked, up and gate stacked, two word tables."""
    state = dict(state)
    vit, text = "model.vision_backbone.image_vit.", "model.transformer."
    out = {"lm_head.weight": state.pop("lm_head.weight")}
    for name in ("positional_embedding", "patch_embedding.weight", "patch_embedding.bias"):
        out[vit + name] = state.pop("model.vision_tower." + name)
    for i in range(config.vision_config.num_hidden_layers):
        for ours, theirs in VIT_BLOCK.items():
            for end in (".weight", ".bias"):
                name = f"model.vision_tower.layers.{i}.{ours}{end}"
                out[f"{vit}transformer.resblocks.{i}.{theirs}{end}"] = state.pop(name)
    for ours, theirs in ADAPTER.items():
        for end in (".weight", ".bias"):
            if (name := f"model.multi_modal_projector.{ours}{end}") in state:
                out[f"model.vision_backbone.{theirs}{end}"] = state.pop(name)

    words = state.pop("model.language_model.embed_tokens.weight")
    base = config.text_config.vocab_size
    out[text + "wte.embedding"], out[text + "wte.new_embedding"] = words[:base], words[base:]
    out[text + "ln_f.weight"] = state.pop("model.language_model.norm.weight")
    for i in range(config.text_config.num_hidden_layers):
        ours, theirs = f"model.language_model.layers.{i}.", f"{text}blocks.{i}."
        qkv = [state.pop(f"{ours}self_attn.{letter}_proj.weight") for letter in "qkv"]
        out[theirs + "self_attn.att_proj.weight"] = torch.cat(qkv)
        out[theirs + "self_attn.attn_out.weight"] = state.pop(ours + "self_attn.o_proj.weight")
        out[theirs + "self_attn.q_norm.weight"] = state.pop(ours + "self_attn.q_norm.weight")
        out[theirs + "self_attn.k_norm.weight"] = state.pop(ours + "self_attn.k_norm.weight")
        out[theirs + "attn_norm.weight"] = state.pop(ours + "input_layernorm.weight")
        up_gate = [state.pop(f"{ours}mlp.{part}_proj.weight") for part in ("up", "gate")]
        out[theirs + "mlp.ff_proj.weight"] = torch.cat(up_gate)
        out[theirs + "mlp.ff_out.weight"] = state.pop(ours + "mlp.down_proj.weight")
        out[theirs + "ff_norm.weight"] = state.pop(ours + "post_attention_layernorm.weight")
    assert not state, sorted(state)
    return out


def released_config(config: Molmo2Config, surplus_layers: int = 2) -> dict:
    """config.json as released: `vit_config` with its own names, more ViT layers than there are weights for,
    and the features counted from the end."""
    vision, adapter, text = config.vision_config, config.adapter_config, config.text_config
    num_layers = vision.num_hidden_layers + surplus_layers
    heads = ("num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size", "intermediate_size")
    ids = [name for name in config.to_dict() if name.endswith("_id")]
    return {
        "architectures": ["Molmo2ForConditionalGeneration"],
        "model_type": "molmo2",
        "dtype": "float32",
        "vit_config": {
            **{name: getattr(vision, name) for name in heads},
            "model_type": "molmo2",
            "num_hidden_layers": num_layers,
            "layer_norm_eps": vision.layer_norm_eps,
            "hidden_act": vision.hidden_act,
            "image_default_input_size": vision.image_size,
            "image_patch_size": vision.patch_size,
            "image_num_pos": vision.num_position_embeddings,
        },
        "adapter_config": {
            **{name: getattr(adapter, name) for name in heads},
            "model_type": "molmo2",
            "vit_layers": [layer - num_layers for layer in adapter.vision_feature_layer],
            "text_hidden_size": adapter.text_hidden_size,
            "hidden_act": adapter.hidden_act,
        },
        "text_config": {
            **{name: getattr(text, name) for name in heads},
            "model_type": "molmo2_text",
            "num_hidden_layers": text.num_hidden_layers,
            "vocab_size": text.vocab_size,
            "additional_vocab_size": text.additional_vocab_size,
            "max_position_embeddings": text.max_position_embeddings,
            "qkv_bias": text.attention_bias,
            "qk_norm_type": text.qk_norm_type,
            "layer_norm_eps": text.rms_norm_eps,
            "rope_theta": text.rope_parameters["rope_theta"],
            "norm_after": text.norm_after,
        },
        **{name: getattr(config, name) for name in ids if getattr(config, name) is not None},
    }


def write_released(folder: Path, tiny_folder: Path, num_shards: int = 2) -> Path:
    """The tiny model once more, as Ai2 would have released it: sharded, with its tokenizer."""
    from transformers import Molmo2ForConditionalGeneration

    model = Molmo2ForConditionalGeneration.from_pretrained(tiny_folder)
    tensors = released_tensors(model.state_dict(), model.config)
    folder.mkdir()
    names = sorted(tensors)
    index = {}
    for shard in range(num_shards):
        file = f"model-{shard + 1:05d}-of-{num_shards:05d}.safetensors"
        part = {name: tensors[name].contiguous() for name in names[shard::num_shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "config.json").write_text(json.dumps(released_config(model.config)))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tiny_folder / name, folder / name)
    return folder
