"""Checkpoints that are whole or absent, and going on from the newest that can be read.

A run's folder: config.yaml, metrics.jsonl, checkpoints/step-XXXXXXX/{model, optimizer.pt, rng.pt, files.json,
progress.json} and, when finished, model/ (an ordinary Hugging Face folder). torch is loaded only where
tensors are read or written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.durable import remove_folder, remove_leftovers, whole_folder
from ..hosts.folders import quiet_transformers
from .rng import set_rng_state
from .run_folder import checkpoint_path, checkpoints

if TYPE_CHECKING:
    import torch
    from torch import nn


class Damaged(ValueError):  # noqa: N818 (of a checkpoint)
    """A checkpoint, or a file of it, cannot be read; the text names it."""


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    """Optimizer steps done."""
    examples: int = 0
    """Examples trained on by all processes."""
    places: Sequence[Mapping[str, Any]] = ()
    """Where each process stands in the order of the data (data/order.py)."""
    step_size: float = 0
    """With train.epochs: examples of a step when the run began, in which its schedule counts. 0: not known."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "places", tuple(self.places))  # JSON brings a list


def read_progress(checkpoint: Path) -> Progress:
    """How far a run had come. Raises Damaged when that cannot be read."""
    return _read(checkpoint / "progress.json", lambda path: Progress(**json.loads(path.read_text())))


def save_model(folder: Path, model: nn.Module, processor: Any, card: str = "") -> None:
    """Write model, tokenizer and card (README.md) as one Hugging Face folder; nobody ever sees half of it.

    Raises OSError when it cannot be written, on a full disk for one.
    """
    from safetensors import SafetensorError

    with whole_folder(folder) as partial, quiet_transformers():
        try:
            model.save_pretrained(partial)
        except SafetensorError as error:
            raise OSError(f"{folder}: {error}") from error
        processor.save_pretrained(partial)
        if card:
            (partial / "README.md").write_text(card, encoding="utf-8")


def save_checkpoint(
    output_dir: Path,
    progress: Progress,
    model: nn.Module,
    processor: Any,
    optimizer: torch.optim.Optimizer,
    rng_states: list[dict],
    keep: int,
    card: str = "",
    write: Callable[[Path], None] | None = None,
) -> Path:
    """Write the checkpoint of a step, remove all but the newest `keep`. rng_states: one for each process.

    write: fills the folder with weights and optimizer state in some other form (stts/train/saving.py).
    Raises OSError when it cannot be written.
    """
    folder = checkpoint_path(output_dir, progress.step)
    if not (folder / "progress.json").exists():  # else the run was stopped again before its next step
        with whole_folder(folder) as partial:
            if write:
                write(partial)
            else:
                save_model(partial / "model", model, processor, card)
                save_tensors(optimizer.state_dict(), partial / "optimizer.pt")
            save_tensors(rng_states, partial / "rng.pt")
            (partial / "progress.json").write_text(json.dumps(asdict(progress)))
            (partial / "files.json").write_text(json.dumps(_sizes(partial)))
    for old in checkpoints(output_dir)[:-keep]:
        remove_folder(old)
    return folder


def save_tensors(values: Any, path: Path) -> None:
    """torch.save. Raises OSError when it cannot be written: torch says so in other ways."""
    import torch

    try:
        torch.save(values, path)
    except RuntimeError as error:
        raise OSError(f"{path}: {str(error).splitlines()[0]}") from error


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file below a folder, by relative name."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def check_files(folder: Path) -> None:
    """Raises Damaged unless a checkpoint has all its files in the sizes in which they were written.

    What they hold is only read by load_checkpoint.
    """
    wanted = _read(folder / "files.json", lambda path: dict(json.loads(path.read_text())))
    found = _sizes(folder)
    for name, size in wanted.items():
        if name not in found:
            raise Damaged(f"{folder / name} is missing")
        if found[name] != size:
            raise Damaged(f"{folder / name} has {found[name]} bytes, was written with {size}")


def _read(path: Path, how: Callable[[Path], Any]) -> Any:
    """Read a file or folder of a checkpoint; whatever is wrong with it becomes Damaged, naming it."""
    try:
        return how(path)
    except Exception as error:
        raise Damaged(f"cannot read {path}: {error}") from error


def resume(
    output_dir: Path, load: Callable[[Path], Progress], tell: Callable[[str], None], is_main: bool = True
) -> Progress | None:
    """Load the newest checkpoint that is whole; None when there is none to go on from.

    load: puts a checkpoint's state back, or raises Damaged. A damaged one is told and passed over for the one before
    it; once that is loaded, the first process sets the damaged ones aside under another name. Every process comes to
    the same choice, as all look at the same files. Raises Damaged, about the newest, when none can be loaded.
    """
    damaged: dict[Path, str] = {}
    for folder in reversed(checkpoints(output_dir)):
        try:
            check_files(folder)
            progress = load(folder)
        except Damaged as error:
            damaged[folder] = str(error)
            continue
        for bad, reason in damaged.items():
            tell(f"warning: {reason}; going on from {folder} instead")
            if is_main:
                _set_aside(bad)
        return progress
    if damaged:
        newest, reason = next(iter(damaged.items()))
        raise Damaged(
            f"{reason}; no checkpoint in {newest.parent} can be read: remove that folder to start over"
        )
    return None


def _set_aside(folder: Path) -> None:
    """Rename a damaged checkpoint, so that it neither counts nor stands in the way of the next of its step."""
    aside = folder.with_name(f"damaged-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)


def clean_up(output_dir: Path) -> None:
    """Remove what a killed run left half written."""
    for folder in (Path(output_dir), Path(output_dir) / "checkpoints"):
        remove_leftovers(folder)


def load_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    process: int = 0,
    read: Callable[[Path], None] | None = None,
) -> Progress:
    """Put a checkpoint's weights, optimizer state and random numbers back; process: this one's rank; read: inverse
    of save_checkpoint's write.

    Raises Damaged, a ValueError, naming the file when one cannot be read.
    """
    import torch

    progress = read_progress(folder)
    tensors = {"map_location": "cpu", "weights_only": True}
    if read:
        _read(folder, read)
    else:
        with quiet_transformers():
            saved = _read(folder / "model", lambda path: type(model).from_pretrained(path, dtype="auto"))
        model.load_state_dict(saved.state_dict())
        del saved
        optimizer.load_state_dict(_read(folder / "optimizer.pt", lambda path: torch.load(path, **tensors)))
    rng_states = _read(folder / "rng.pt", lambda path: torch.load(path, **tensors))
    if process < len(rng_states):  # with more processes than before, the new ones keep their own seed
        set_rng_state(rng_states[process])
    return progress
