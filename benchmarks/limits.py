"""How much faster pruning could make the models people use: the ratio of multiply-adds, as a table in Markdown.

    PYTHONPATH=. python benchmarks/limits.py             # all of SIZES
    PYTHONPATH=. python benchmarks/limits.py internvl3   # those whose names begin so

Models are built without weights. Of each row: the limit of a pass over the prompt at 50 and 80 %, when windows are
dropped in the ViT, and in brackets when the same are dropped behind it. 64 tokens of text and 10 a frame are counted.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
import transformers

from stts import STTSConfig
from stts.hosts.base import Host
from stts.hosts.classes import host_of
from stts.hosts.flops_any import limit, multiply_adds

FRAMES, RATIOS = (64, 128, 256), (0.5, 0.8)
SIGLIP = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
SIGLIP_384 = SIGLIP | {
    "model_type": "siglip_vision_model",
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}
VIT_L = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}


def llm(
    width: int, mlp: int, layers: int, heads: int, shared: int, vocabulary: int, **more: Any
) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "vocab_size": vocabulary,
        **more,
    }


def qwen_vision(depth: int, width: int, mlp: int, out: int, **more: Any) -> dict[str, Any]:
    sizes = {"depth": depth, "hidden_size": width, "intermediate_size": mlp, "out_hidden_size": out}
    return sizes | {"num_heads": 16} | more


QWEN2_7B = llm(3584, 18944, 28, 28, 4, 152064)
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}}
QWEN3_ROPE = {
    "rope_type": "default",
    "rope_theta": 5e6,
    "mrope_section": [24, 20, 20],
    "mrope_interleaved": True,
}
SIZES: dict[str, tuple[str, tuple[int, int], dict[str, Any]]] = {
    "qwen3_vl_2b": (
        "Qwen3VL",
        (22, 40),
        {
            "vision_config": qwen_vision(24, 1024, 4096, 2048, deepstack_visual_indexes=[5, 11, 17]),
            "text_config": llm(2048, 6144, 28, 16, 8, 151936, head_dim=128, rope_parameters=QWEN3_ROPE),
        },
    ),
    "qwen3_vl_8b": (
        "Qwen3VL",
        (22, 40),
        {
            "vision_config": qwen_vision(27, 1152, 4304, 4096, deepstack_visual_indexes=[8, 16, 24]),
            "text_config": llm(4096, 12288, 36, 32, 8, 151936, head_dim=128, rope_parameters=QWEN3_ROPE),
        },
    ),
    "qwen3_5_9b": (
        "Qwen3_5",
        (22, 40),
        {"vision_config": qwen_vision(27, 1152, 4304, 4096), "text_config": {}},
    ),
    "qwen2_5_vl_3b": (
        "Qwen2_5_VL",
        (24, 42),
        {
            "vision_config": qwen_vision(32, 1280, 3420, 2048),
            "text_config": llm(2048, 11008, 36, 16, 2, 151936, **MROPE),
        },
    ),
    "qwen2_5_vl_7b": (
        "Qwen2_5_VL",
        (24, 42),
        {"vision_config": qwen_vision(32, 1280, 3420, 3584), "text_config": QWEN2_7B | MROPE},
    ),
    "qwen2_vl_2b": (
        "Qwen2VL",
        (24, 42),
        {
            "vision_config": {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16},
            "text_config": llm(1536, 8960, 28, 12, 2, 151936, **MROPE),
        },
    ),
    "glm4_1v_9b": ("Glm4v", (24, 42), {}),
    "video_llama_3_2b": (
        "VideoLlama3",
        (24, 42),
        {
            "vision_config": SIGLIP | {"patch_size": 14},
            "text_config": llm(1536, 8960, 28, 12, 2, 151936, model_type="qwen2"),
        },
    ),
    "llava_onevision_0_5b": (
        "LlavaOnevision",
        (28, 28),
        {
            "vision_config": SIGLIP_384,
            "text_config": llm(896, 4864, 24, 14, 2, 152000, model_type="qwen2"),
        },
    ),
    "llava_onevision_7b": (
        "LlavaOnevision",
        (28, 28),
        {
            "vision_config": SIGLIP_384,
            "text_config": QWEN2_7B | {"model_type": "qwen2"},
        },
    ),
    "llava_next_video_7b": (
        "LlavaNextVideo",
        (24, 24),
        {
            "vision_config": VIT_L | {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14},
            "text_config": llm(4096, 11008, 32, 32, 32, 32064, model_type="llama"),
        },
    ),
    "internvl3_1b": (
        "InternVL",
        (32, 32),
        {"vision_config": VIT_L, "text_config": llm(896, 4864, 24, 14, 2, 151674, model_type="qwen2")},
    ),
    "internvl3_8b": (
        "InternVL",
        (32, 32),
        {"vision_config": VIT_L, "text_config": QWEN2_7B | {"model_type": "qwen2"}},
    ),
    "smolvlm2_2b": (
        "SmolVLM",
        (27, 27),
        {
            "vision_config": SIGLIP | {"image_size": 384, "patch_size": 14},
            "text_config": llm(2048, 8192, 24, 32, 32, 49280, model_type="llama"),
            "scale_factor": 3,
        },
    ),
    "idefics3_8b": (
        "Idefics3",
        (26, 26),
        {
            "vision_config": SIGLIP | {"image_size": 364, "patch_size": 14},
            "text_config": llm(4096, 14336, 32, 32, 8, 128259, model_type="llama"),
            "scale_factor": 2,
        },
    ),
    "gemma3_4b": (
        "Gemma3",
        (64, 64),
        {
            "vision_config": SIGLIP | {"image_size": 896, "patch_size": 14, "vision_use_head": False},
            "text_config": llm(2560, 10240, 34, 8, 4, 262208, head_dim=256, sliding_window=1024),
            "mm_tokens_per_image": 256,
        },
    ),
    "gemma4_e4b": (
        "Gemma4",
        (18, 33),
        {
            "vision_config": {},
            "text_config": llm(
                2560, 10240, 42, 8, 2, 262144, head_dim=256, global_head_dim=512, num_kv_shared_layers=18
            ),
            "audio_config": None,
        },
    ),
}
"""By the name of configs/model: transformers' class, rows and columns of patches of a frame, and the sizes of the
published model."""


def described(name: str) -> Host:
    """A model of these sizes on the meta device, and its description."""
    family, _, sizes = SIZES[name]
    config = getattr(transformers, f"{family}Config")(**sizes)
    cls = getattr(transformers, f"{family}ForConditionalGeneration")
    with torch.device("meta"):
        return host_of(cls)(cls(config))


def row(name: str) -> str:
    host, grid = described(name), SIZES[name][1]
    inside = STTSConfig().for_windows(host.unit)
    behind = inside.replace(policy="evs")
    per_unit = 2 if "Qwen" in SIZES[name][0] or "Glm" in SIZES[name][0] else 1
    cost = multiply_adds(host, inside, 64 // per_unit, grid, logits=1)
    cells = [name, f"{host.unit} x {host.unit}", f"{cost.vision / cost.total:.0%}"]
    for frames in FRAMES:
        for ratio in RATIOS:
            found = [
                limit(host, stts, frames // per_unit, grid, ratio, logits=1) for stts in (inside, behind)
            ]
            cells.append(f"{found[0]:.2f} ({found[1]:.2f})")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prefix", nargs="?", default="")
    prefix = parser.parse_args().prefix
    heads = ["model", "window", "ViT at 64"] + [f"{n} frames, {r:.0%}" for n in FRAMES for r in RATIOS]
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for name in SIZES:
        if name.startswith(prefix):
            print(row(name), flush=True)


if __name__ == "__main__":
    main()
