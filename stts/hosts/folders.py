"""Folders of models: which files they must have, where they are, what they were trained with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..data.processors.config_file import read_config
from ..files.model_folder import read_json, weight_files
from ..pruning.config import STTSConfig
from ..rules import check_rules, one_of
from .sizes import OWN_MODELS, SIZES

DTYPES = ("auto", "float32", "bfloat16", "float16")
FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "README.md"]
"""What is downloaded of a model: no code; README.md for its licence."""
PATH_KEY = "model.path"
"""What the scripts call ModelSpec.path."""
ADAPTER_CONFIG, ADAPTER_FILE = "adapter_config.json", "adapter_model.safetensors"
"""A folder of LoRA adapters (stts/train/lora.py)."""
TRAINED_FILE = "trained.safetensors"
"""Beside older adapters, whose ADAPTER_CONFIG has no modules_to_save: the other weights trained with them."""
TRAINED_WITH = (
    "insert_after",
    "pool_width",
    "bias_floor",
    "bias_norm",
    "bias_range",
    "novelty_power",
    "novelty_since",
    "score_floor",
    "position_ids",
    "scorer_num_heads",
    "scorer_hidden_dims",
    "scorer_activation",
)
"""Settings a trained model brings along: under others its scores would mean something else, or not fit."""


@dataclass(frozen=True)
class ModelSpec:
    """Which weights to start from. Raises ValueError, naming the key, when a value makes no sense."""

    path: str | None = None
    """A folder, or a hub id such as allenai/Molmo2-4B. None, for our own models only: what `pretrained` says."""
    name: str = "model"
    """"tiny", "tiny_qwen3_vl": our own tiny Molmo2 and Qwen3-VL; a folder of one that does not exist is made, with
    random weights. Else only a label."""
    pretrained: bool = True
    """Without a path: the weights that come with the package; False: random ones, in outputs/models."""
    dtype: str = field(default="auto", metadata=one_of(*DTYPES))
    """Of the weights: "float32", "bfloat16", "float16", or "auto": bfloat16 on CUDA, float32 elsewhere."""
    attn_implementation: str | None = None
    """Attention of the LLM: "sdpa", "eager", "block_sparse". None: "block_sparse" on CUDA, "sdpa" elsewhere."""
    seed: int = 0
    """tiny, tiny_qwen3_vl: of random weights."""
    min_pixels: int | None = None
    """For models that take frames of any size: of a whole clip; of a frame for Qwen2-VL, Qwen2.5-VL and Video-LLaMA3.
    Smaller ones are made larger. None: as their folder says."""
    max_pixels: int | None = None
    """The same, but of a whole clip for Video-LLaMA3: larger ones are made smaller."""
    lr: Mapping[str, float] = field(default_factory=dict)
    """Peak learning rates that suit it, by part of the model: what train.lr refers to by default."""

    def __post_init__(self) -> None:
        if not self.path and self.name not in OWN_MODELS:
            raise ValueError(
                "model.path is empty: give a folder or a hub id, e.g. model.path=allenai/Molmo2-4B"
            )
        check_rules(self, "model")

    def to_train(self) -> ModelSpec:
        """The same with float32 for "auto": an optimizer's small steps vanish in bfloat16 weights."""
        return replace(self, dtype="float32") if self.dtype == "auto" else self


def says_trained(folder: Path) -> bool:
    """Whether a folder says that it was trained with a scorer, which then must be in it."""
    return (read_json(folder / "config.json").get("stts") or {}).get("policy") == "scorer"


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No bars and no table of fresh tensors: what matters in them is checked and raised here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def find_folder(spec: ModelSpec, checkpoint: str | Path | None = None, key: str = PATH_KEY) -> Path:
    """The local folder that load_model loads, made or downloaded (or found in the hub's cache) if need be."""
    if checkpoint is not None:
        return check_folder(Path(checkpoint).expanduser(), "checkpoint")
    if spec.name in OWN_MODELS:
        return _own_folder(spec)
    return _local(spec.path, key)


def _local(name: str, key: str) -> Path:
    """The folder of that name, or of the hub's model of that name."""
    path = Path(name).expanduser()
    if path.exists() or not re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
        return check_folder(path, key)
    return check_folder(download(name, key), key)


def _adapted(folder: Path) -> list[Path]:
    """The folder, and before it what its adapters were trained on, if it holds adapters, and so on.

    Raises ValueError when a folder of adapters does not say on what, or that is not there.
    """
    chain = [folder]
    while (path := chain[0] / ADAPTER_CONFIG).exists():
        base = read_json(path).get("base_model_name_or_path")
        if not base or not isinstance(base, str):
            raise ValueError(f"{path} does not say what was adapted: set base_model_name_or_path in it")
        below = _local(base, f"base_model_name_or_path in {path}")
        if below.resolve() in (known.resolve() for known in chain):
            raise ValueError(f"base_model_name_or_path in {path} is {base!r}, which goes round in a circle")
        chain.insert(0, below)
    return chain


def _own_folder(spec: ModelSpec) -> Path:
    """Trained weights of one of our own models, or random ones, made if they are not there."""
    from .tiny import make_tiny, shipped_folder

    if spec.path is None and spec.pretrained:
        return shipped_folder(spec.name)
    path = Path(spec.path or f"outputs/models/{spec.name}-seed{spec.seed}").expanduser()
    if (path / "config.json").exists():
        return check_folder(path, "model.path")
    with quiet_transformers():
        if spec.name not in SIZES:
            from .tiny_qwen3_vl import make_tiny_qwen3_vl

            return make_tiny_qwen3_vl(path, spec.seed)
        return make_tiny(path, spec.seed)


def download(hub_id: str, key: str = PATH_KEY) -> Path:
    """Fetch a model's files from the hub, or find them in its cache: their folder. No code is fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(hub_id, allow_patterns=FILES))
    except (OSError, HFValidationError) as error:
        unknown = isinstance(error, RepositoryNotFoundError)
        reason = "the hub does not know it" if unknown else "it is not in the cache and cannot be downloaded"
        raise ValueError(
            f"{key} is {hub_id!r}: there is no such folder here, and {reason} ({_first_line(error)}). "
            f"Where there is a network run `hf download {hub_id} --local-dir DIR`, then give {key}=DIR"
        ) from error


def check_folder(folder: Path, key: str) -> Path:
    """The folder. Raises ValueError, naming key, unless it has config.json and all its safetensors."""
    if not folder.is_dir():
        raise ValueError(
            f"{key} is {str(folder)!r}: no such folder (nor is it a hub id such as allenai/Molmo2-4B)"
        )
    if not (folder / "config.json").exists():
        inside = next(
            (name for name in ("model", "adapter", "hf") if (folder / name / "config.json").exists()), None
        )
        hint = (
            f"did you mean {folder / inside}?" if inside else "it must be a folder written by save_pretrained"
        )
        raise ValueError(f"{key} is {str(folder)!r}, which has no config.json; {hint}")
    read_config(folder)
    if missing := sorted(name for name in _weight_files(folder) if not (folder / name).exists()):
        raise ValueError(
            f"{key} is {str(folder)!r}, whose weights are not complete: {', '.join(missing[:3])} missing; "
            "copy or download the folder again"
        )
    return folder


def _weight_files(folder: Path) -> set[str]:
    if (folder / ADAPTER_CONFIG).exists():
        older = read_json(folder / ADAPTER_CONFIG).get("modules_to_save") is None
        return {ADAPTER_FILE, TRAINED_FILE} if older else {ADAPTER_FILE}
    return weight_files(folder)


def as_trained(stts: STTSConfig, folder: Path) -> STTSConfig:
    """The settings, with those of TRAINED_WITH as the folder has them, if it was saved by this library.

    Raises ValueError when one of those was set, to something else than the folder's value, or the folder's are none.
    """
    saved = read_json(folder / "config.json").get("stts")
    if saved is None:
        return stts
    try:
        trained, default = STTSConfig.from_dict(saved), STTSConfig()
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: stts does not hold settings of ours: {error}") from error
    left = ("pool_width",) if trained.pool_width is None else ()  # to the host, who refuses another one
    brought = {name: getattr(trained, name) for name in TRAINED_WITH if name not in left}
    for name, found in brought.items():
        asked = getattr(stts, name)
        if asked not in (found, getattr(default, name)):
            raise ValueError(f"{name} is {asked!r}, but the model in {folder} was trained with {found!r}")
    return stts.replace(**brought)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
