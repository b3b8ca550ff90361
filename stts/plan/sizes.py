"""The sizes of the models of configs/model as they were released, so that nothing has to be fetched.

By hub id: the arguments of transformers' configuration of that model_type; what is not said is its default.
"""

from __future__ import annotations

from typing import Any

Sizes = dict[str, Any]

VIT_L = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
SIGLIP = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}}
QWEN3_ROPE = {"mrope_section": [24, 20, 20], "mrope_interleaved": True}


def llm(width: int, mlp: int, layers: int, heads: int, shared: int, vocabulary: int, **more: Any) -> Sizes:
    return {
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "vocab_size": vocabulary,
        **more,
    }


QWEN2_7B = llm(3584, 18944, 28, 28, 4, 152064)


def molmo2(width: int, mlp: int, **more: Any) -> Sizes:
    text = {"hidden_size": width, "intermediate_size": mlp, "rope_parameters": rope(1e6)} | more
    adapter = {"intermediate_size": mlp, "text_hidden_size": width}
    return {"model_type": "molmo2", "adapter_config": adapter, "text_config": text}


def rope(theta: float, **more: Any) -> Sizes:
    return {"rope_type": "default", "rope_theta": theta, **more}


def qwen_vision(depth: int, width: int, mlp: int, out: int, **more: Any) -> Sizes:
    sizes = {"depth": depth, "hidden_size": width, "intermediate_size": mlp, "out_hidden_size": out}
    return sizes | {"num_heads": 16} | more


def qwen3_vl(vision: Sizes, text: Sizes, tied: bool) -> Sizes:
    text = text | {"head_dim": 128, "rope_parameters": rope(5e6, **QWEN3_ROPE)}
    both = {"vision_config": vision, "text_config": text, "tie_word_embeddings": tied}
    return {"model_type": "qwen3_vl"} | both


def qwen2_vl(text: Sizes, tied: bool) -> Sizes:
    vision = {"depth": 32, "embed_dim": 1280, "hidden_size": text["hidden_size"], "num_heads": 16}
    both = {"vision_config": vision, "text_config": text | MROPE, "tie_word_embeddings": tied}
    return {"model_type": "qwen2_vl"} | both


def qwen2_5_vl(text: Sizes, tied: bool) -> Sizes:
    vision = qwen_vision(32, 1280, 3420, text["hidden_size"])
    both = {"vision_config": vision, "text_config": text | MROPE, "tie_word_embeddings": tied}
    return {"model_type": "qwen2_5_vl"} | both


def qwen3_5(vision: Sizes, tied: bool, **text: Any) -> Sizes:
    both = {"vision_config": vision, "text_config": text, "tie_word_embeddings": tied}
    return {"model_type": "qwen3_5"} | both


def llava_onevision(text: Sizes, tied: bool) -> Sizes:
    text = text | {"model_type": "qwen2"}
    return {"model_type": "llava_onevision", "text_config": text, "tie_word_embeddings": tied}


def internvl(text: Sizes) -> Sizes:
    text = text | {"model_type": "qwen2"}
    both = {"vision_config": VIT_L, "text_config": text, "tie_word_embeddings": False}
    return {"model_type": "internvl"} | both


def gemma3(text: Sizes) -> Sizes:
    vision = SIGLIP | {"image_size": 896, "vision_use_head": False}
    text = text | {"head_dim": 256, "sliding_window": 1024}
    return {"model_type": "gemma3", "vision_config": vision, "text_config": text, "mm_tokens_per_image": 256}


def gemma4(text: Sizes, shared: int, period: int, **more: Any) -> Sizes:
    """shared: layers that take keys and values of earlier ones; period: layers up to one with full attention. Without
    the audio model, about 0.3 billion frozen weights."""
    kinds = ["sliding_attention"] * (period - 1) + ["full_attention"]
    text = text | {"head_dim": 256, "global_head_dim": 512, "num_kv_shared_layers": shared} | more
    text |= {"layer_types": kinds * (text["num_hidden_layers"] // period)}
    return {"model_type": "gemma4", "vision_config": {}, "audio_config": None, "text_config": text}


DEEPSTACK, DEEPSTACK_8B = ({"deepstack_visual_indexes": x} for x in ([5, 11, 17], [8, 16, 24]))
SIZES: dict[str, Sizes] = {
    "allenai/Molmo2-4B": molmo2(2560, 9728),
    "allenai/Molmo2-8B": molmo2(4096, 12288),
    "allenai/Molmo2-O-7B": molmo2(
        4096,
        11008,
        num_hidden_layers=32,
        num_key_value_heads=32,
        vocab_size=100278,
        qk_norm_type="olmo",
        norm_after=True,
    ),
    "Qwen/Qwen3-VL-2B-Instruct": qwen3_vl(
        qwen_vision(24, 1024, 4096, 2048, **DEEPSTACK), llm(2048, 6144, 28, 16, 8, 151936), True
    ),
    "Qwen/Qwen3-VL-4B-Instruct": qwen3_vl(
        qwen_vision(24, 1024, 4096, 2560, **DEEPSTACK), llm(2560, 9728, 36, 32, 8, 151936), True
    ),
    "Qwen/Qwen3-VL-8B-Instruct": qwen3_vl(
        qwen_vision(27, 1152, 4304, 4096, **DEEPSTACK_8B), llm(4096, 12288, 36, 32, 8, 151936), False
    ),
    "Qwen/Qwen3.5-4B": qwen3_5(
        qwen_vision(24, 1024, 4096, 2560), True, hidden_size=2560, intermediate_size=9216
    ),
    "Qwen/Qwen3.5-9B": qwen3_5(qwen_vision(27, 1152, 4304, 4096), False),
    "Qwen/Qwen2.5-VL-3B-Instruct": qwen2_5_vl(llm(2048, 11008, 36, 16, 2, 151936), True),
    "Qwen/Qwen2.5-VL-7B-Instruct": qwen2_5_vl(QWEN2_7B, False),
    "Qwen/Qwen2-VL-2B-Instruct": qwen2_vl(llm(1536, 8960, 28, 12, 2, 151936), True),
    "Qwen/Qwen2-VL-7B-Instruct": qwen2_vl(QWEN2_7B, False),
    "zai-org/GLM-4.1V-9B-Thinking": {"model_type": "glm4v"},
    "zai-org/GLM-4.6V-Flash": {"model_type": "glm46v"},
    "lkhl/VideoLLaMA3-2B-Image-HF": {
        "model_type": "video_llama_3",
        "vision_config": SIGLIP,
        "text_config": llm(1536, 8960, 28, 12, 2, 151936, model_type="qwen2"),
        "tie_word_embeddings": True,
    },
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": llava_onevision(llm(896, 4864, 24, 14, 2, 152000), True),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": llava_onevision(QWEN2_7B, False),
    "llava-hf/LLaVA-NeXT-Video-7B-hf": {
        "model_type": "llava_next_video",
        "vision_config": VIT_L | {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14},
        "text_config": llm(4096, 11008, 32, 32, 32, 32064, model_type="llama"),
    },
    "OpenGVLab/InternVL3-1B-hf": internvl(llm(896, 4864, 24, 14, 2, 151674)),
    "OpenGVLab/InternVL3-8B-hf": internvl(QWEN2_7B),
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": {
        "model_type": "smolvlm",
        "vision_config": SIGLIP | {"image_size": 384},
        "text_config": llm(2048, 8192, 24, 32, 32, 49280, model_type="llama"),
        "scale_factor": 3,
        "tie_word_embeddings": False,
    },
    "HuggingFaceM4/Idefics3-8B-Llama3": {
        "model_type": "idefics3",
        "vision_config": SIGLIP | {"image_size": 364},
        "text_config": llm(4096, 14336, 32, 32, 8, 128259, model_type="llama"),
        "scale_factor": 2,
        "tie_word_embeddings": False,
    },
    "google/gemma-3-4b-it": gemma3(llm(2560, 10240, 34, 8, 4, 262208)),
    "google/gemma-3-12b-it": gemma3(llm(3840, 15360, 48, 16, 8, 262208)),
    "google/gemma-4-E2B-it": gemma4(
        llm(1536, 6144, 35, 8, 1, 262144), shared=20, period=5, use_double_wide_mlp=True
    ),
    "google/gemma-4-E4B-it": gemma4(llm(2560, 10240, 42, 8, 2, 262144), shared=18, period=6),
}

CLIP_PIXELS = {
    "qwen3_vl": 24576 * 32 * 32,
    "qwen3_5": 24576 * 32 * 32,
    "video_llama_3": 16384 * 28 * 28,
}
"""By model_type: the most pixels of a clip that the released folders allow, where the code's default is another."""
