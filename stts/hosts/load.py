"""Models by name: this library's own, released Molmo2 from the hub, any saved folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..pruning.config import STTSConfig
from .folder_checks import BadFolder, one_line
from .folders import PATH_KEY, ModelSpec, _adapted, as_trained, find_folder, quiet_transformers, says_trained
from .sizes import POOL_WIDTH, SIZES

if TYPE_CHECKING:
    from ..data.processors.molmo2 import VideoProcessor
    from .molmo2 import STTSMolmo2ForConditionalGeneration


def load_model(
    spec: ModelSpec, stts: STTSConfig, checkpoint: str | Path | None = None, key: str = PATH_KEY
) -> tuple[STTSMolmo2ForConditionalGeneration, VideoProcessor]:
    """Model, on the CPU and in eval mode, and the processor that goes with it.

    checkpoint: a folder written by save_pretrained, to take instead of spec.path. A folder of this library
    brings its scorer and what that was trained with (TRAINED_WITH); the rest of stts is obeyed. Plain Molmo2
    weights get a fresh scorer. key: what the caller calls spec.path. Raises ValueError, naming key and folder, when
    there is nothing there, it cannot be downloaded, or files are missing or damaged; and as from_pretrained does.
    """
    import torch

    from ..data.processors.molmo2 import VideoProcessor
    from .adapters import adapt
    from .llm_attention import choose_llm_attention
    from .molmo2 import STTSMolmo2ForConditionalGeneration

    folder = find_folder(spec, checkpoint, key)
    start, *adapters = _adapted(folder)
    settings = as_trained(stts, folder)
    auto = "bfloat16" if torch.cuda.is_available() else "float32"
    attention = choose_llm_attention(spec.attn_implementation, default_device())
    try:
        with quiet_transformers():
            model, loaded = STTSMolmo2ForConditionalGeneration.from_pretrained(
                start,
                stts=settings,
                dtype=getattr(torch, auto if spec.dtype == "auto" else spec.dtype),
                output_loading_info=True,
                attn_implementation={"text_config": attention},
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
    return model, VideoProcessor.from_pretrained(folder, pool_width=model.stts.pool_width)


def default_device() -> str:
    """The name of the device to compute on: "cuda" where there is one, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_processor(spec: ModelSpec, stts: STTSConfig, checkpoint: str | Path | None = None) -> VideoProcessor:
    """The processor alone, as load_model gives it. Of a model on the hub only what it needs is fetched."""
    from ..data.processors.molmo2 import VideoProcessor

    pool_width = stts.for_windows(POOL_WIDTH).pool_width
    on_hub = checkpoint is None and spec.path and not Path(spec.path).expanduser().exists()
    if on_hub and spec.name not in SIZES:
        return VideoProcessor.from_pretrained(spec.path, pool_width=pool_width)
    return VideoProcessor.from_pretrained(find_folder(spec, checkpoint), pool_width=pool_width)
