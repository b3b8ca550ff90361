"""config.json of the models that there are processors for; read without torch, so that settings are checked early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...files.model_folder import BadFolder, read_json

SIZES_IN = {
    "molmo2": (("text_config",), ("adapter_config",), ("vision_config", "vit_config")),
    "qwen3_vl": (("text_config",), ("vision_config",)),
    "qwen3_5": (("text_config",), ("vision_config",)),
    "qwen2_5_vl": (("text_config", "hidden_size"), ("vision_config",)),
    "qwen2_vl": (("text_config", "hidden_size"), ("vision_config",)),
    "glm4v": (("text_config",), ("vision_config",)),
    "glm46v": (("text_config",), ("vision_config",)),
    "video_llama_3": (("text_config",), ("vision_config",)),
    "llava_onevision": (("text_config",), ("vision_config",)),
    "llava_next_video": (("text_config",), ("vision_config",)),
    "internvl": (("text_config",), ("vision_config",)),
    "smolvlm": (("text_config",), ("vision_config",)),
    "idefics3": (("text_config",), ("vision_config",)),
    "gemma3": (("text_config",), ("vision_config",)),
    "gemma4": (("text_config",), ("vision_config",)),
}
"""The models that there are processors for, by model_type, and where config.json has the sizes of their parts; names
in one pair of brackets mean the same (released files of Qwen2-VL have those of the LLM at the top)."""
SMALL_FILES = (
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
)
"""Beside config.json, where a folder has them."""


def read_config(folder: Path, *model_types: str) -> dict[str, Any]:
    """config.json of a model of one of these types, by default of any of SIZES_IN.

    Raises BadFolder when it is that of something else, or lacks the sizes of a part, for which transformers would
    take those of its largest model; and for a small file beside it that is no JSON.
    """
    path = folder / "config.json"
    config, known = read_json(path), list(model_types or SIZES_IN)
    found = config.get("model_type")
    if found not in known:
        rule = " or ".join(map(repr, known))
        more = "" if model_types else "; others of transformers prune with stts.insert_stts"
        raise BadFolder(f"{folder} holds a {found!r} model, must be {rule} ({path.name}){more}")
    for name in SMALL_FILES:
        if (folder / name).exists():
            read_json(folder / name)
    for names in SIZES_IN[found]:
        if not any(isinstance(config.get(name), dict | int) and config[name] for name in names):
            raise BadFolder(
                f"{path}: {names[0]} is {config.get(names[0])!r}, must hold the sizes of that part"
            )
    return config
