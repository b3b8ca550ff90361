"""What a processor reads of a model's folder: its config, and its tokenizer. What is wrong there is named."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from ...files.model_folder import one_line
from .config_file import read_config

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model")


def load_config(
    path_or_id: str | PathLike, model_types: str | tuple[str, ...], **kwargs: Any
) -> PreTrainedConfig:
    """The config of a folder or hub id. Raises ValueError when it is that of something else, or damaged."""
    model_types = (model_types,) if isinstance(model_types, str) else model_types
    rule = " or ".join(map(repr, model_types))
    if (Path(path_or_id) / "config.json").is_file():
        read_config(Path(path_or_id), *model_types)
    try:
        config = AutoConfig.from_pretrained(path_or_id, trust_remote_code=False, **kwargs)
    except OSError:
        raise
    except Exception as error:  # whatever transformers makes of values that somebody has changed
        raise ValueError(
            f"the config.json of {path_or_id} is not that of a {rule} model: {one_line(error)}"
        ) from error
    if config.model_type not in model_types:
        raise ValueError(f"{path_or_id} holds a {config.model_type!r} model, must be {rule}")
    return config


def load_tokenizer(path_or_id: str | PathLike, **kwargs: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id. Raises ValueError when there is none in a folder, or it is damaged."""
    here = Path(path_or_id).is_dir()
    if here and not any((Path(path_or_id) / name).is_file() for name in TOKENIZER_FILES):
        raise ValueError(
            f"{path_or_id} has no tokenizer.json: copy the tokenizer files of the model it was made from into it"
        )
    try:
        return AutoTokenizer.from_pretrained(path_or_id, trust_remote_code=False, **kwargs)
    except Exception as error:  # tokenizers raise any kind for a damaged file
        if isinstance(error, OSError) and not here:
            raise
        raise ValueError(
            f"the tokenizer in {path_or_id} (tokenizer.json and the files beside it) cannot be read: "
            f"{one_line(error)}; copy those of the model it was made from"
        ) from error
