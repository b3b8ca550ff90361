"""Models by name: this library's own, released ones from the hub, any saved folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..files.model_folder import BadFolder, one_line
from ..pruning.config import STTSConfig
from .families import family_of, family_on_hub
from .folders import PATH_KEY, ModelSpec, _adapted, as_trained, find_folder, quiet_transformers, says_trained
from .sizes import OWN_MODELS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..data.processors.base import Processor


def load_model(
    spec: ModelSpec, stts: STTSConfig, checkpoint: str | Path | None = None, key: str = PATH_KEY
) -> tuple[PreTrainedModel, Processor]:
    """Model, on the CPU and in eval mode, and the processor that goes with it.

    checkpoint: a folder written by save_pretrained, to take instead of spec.path. Its model_type says of which class
    the model is (FAMILIES). A folder of this library brings its scorer and what that was trained with (TRAINED_WITH);
    the rest of stts is obeyed. Plain weights get a fresh scorer. key: what the caller calls spec.path. Raises
    ValueError, naming key and folder, when there is nothing there, it cannot be downloaded, or files are missing or
    damaged; and as from_pretrained does.
    """
    import torch

    from .adapters import adapt

    folder = find_folder(spec, checkpoint, key)
    start, *adapters = _adapted(folder)
    settings, family = as_trained(stts, folder), family_of(start)
    auto = "bfloat16" if torch.cuda.is_available() else "float32"
    try:
        with quiet_transformers():
            model, loaded = family.pruning_class().from_pretrained(
                start,
                stts=settings,
                dtype=getattr(torch, auto if spec.dtype == "auto" else spec.dtype),
                output_loading_info=True,
                attn_implementation=family.attention(spec, default_device()),
            )
    except BadFolder:
        raise
    except Exception as error:  # whatever transformers makes of a folder that somebody has damaged
        raise ValueError(f"cannot load {start}: {one_line(error)}") from error
    fresh = set(loaded["missing_keys"])  # of a scorer that the folder does not have
    for adapter in adapters:
        model, brought = adapt(model, adapter)
        fresh -= brought
    if adapters and fresh and says_trained(folder):
        raise ValueError(
            f"{folder} lacks {sorted(fresh)[0]}: its config.json says that it was trained with a scorer (stts, "
            f"policy scorer), and neither it nor {start} has one"
        )
    downloaded = checkpoint is None and spec.path and not Path(spec.path).expanduser().exists()
    model.name_or_path = spec.path if downloaded else str(folder.resolve())
    return model, family.processor(folder, spec, model.stts)


def default_device() -> str:
    """The name of the device to compute on: "cuda" where there is one, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_processor(spec: ModelSpec, stts: STTSConfig, checkpoint: str | Path | None = None) -> Processor:
    """The processor alone, as load_model gives it. Of a model on the hub only what it needs is fetched."""
    on_hub = checkpoint is None and spec.path and not Path(spec.path).expanduser().exists()
    if on_hub and spec.name not in OWN_MODELS:
        return family_on_hub(spec.path).processor(spec.path, spec, stts)
    folder = find_folder(spec, checkpoint)
    return family_of(folder).processor(folder, spec, stts)
