"""Checkpoints: each is whole or absent, and a run goes on from the newest one that can be read.

checkpoints/step-XXXXXXX of a run's folder holds model/ (an ordinary Hugging Face folder), optimizer.pt, rng.pt,
progress.json and files.json, the size of every file. torch is loaded only where tensors are read or written.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files.durable import remove_folder, remove_leftovers, whole_folder
from ..hosts.folders import quiet_transformers
from .run_folder import checkpoint_path, checkpoints

if TYPE_CHECKING:
    import torch
    from torch import nn


class DamagedError(ValueError):
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
    """How far a run had come. Raises DamagedError when that cannot be read."""
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
    """Write the checkpoint of a step, then remove all but the newest `keep`. Returns its folder.

    rng_states: what rng_state gave, one for each process; card: text of model/README.md; write: called with the
    folder, to store weights and optimizer state in another form (stts/train/saving.py). A checkpoint of this step
    that is there already stays. Raises OSError when it cannot be written.
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
    """Raises DamagedError for a file of a checkpoint that is missing or has another size than it was written with.

    What the files hold is not looked at here, but by load_checkpoint.
    """
    wanted = _read(folder / "files.json", lambda path: dict(json.loads(path.read_text())))
    found = _sizes(folder)
    for name, size in wanted.items():
        if name not in found:
            raise DamagedError(f"{folder / name} is missing")
        if found[name] != size:
            raise DamagedError(f"{folder / name} has {found[name]} bytes, was written with {size}")


def _read(path: Path, how: Callable[[Path], Any]) -> Any:
    """What `how` reads from a file or folder of a checkpoint. Raises DamagedError, naming it, when that fails."""
    try:
        return how(path)
    except Exception as error:
        raise DamagedError(f"cannot read {path}: {error}") from error


def resume(
    output_dir: Path, load: Callable[[Path], Progress], tell: Callable[[str], None], is_main: bool = True
) -> Progress | None:
    """Load the newest checkpoint that can be read; None when the run has none.

    load: puts a checkpoint's state back, or raises DamagedError. tell: prints a line about each damaged checkpoint
    that was passed over. Once an earlier one is loaded, the first process (is_main) renames the damaged ones. All
    processes look at the same files, so they choose the same checkpoint. Raises DamagedError, about the newest, when
    none can be loaded.
    """
    damaged: dict[Path, str] = {}
    for folder in reversed(checkpoints(output_dir)):
        try:
            check_files(folder)
            progress = load(folder)
        except DamagedError as error:
            damaged[folder] = str(error)
            continue
        for bad, reason in damaged.items():
            tell(f"warning: {reason}; going on from {folder} instead")
            if is_main:
                _set_aside(bad)
        return progress
    if damaged:
        newest, reason = next(iter(damaged.items()))
        raise DamagedError(
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
    """Put a checkpoint's weights, optimizer state and random numbers back. Returns how far the run had come.

    process: rank of this one, whose random numbers are taken; read: called with the folder where save_checkpoint was
    given `write`, to read what that wrote. Raises DamagedError, a ValueError, naming a file that cannot be read.
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


def rng_state() -> dict:
    """The state of every generator that training draws from, in this process.

    It holds only values that torch.load takes with weights_only=True.
    """
    import numpy as np
    import torch

    name, keys, *rest = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
    }
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def set_rng_state(state: dict) -> None:
    """Inverse of rng_state: a run that goes on draws what it would have drawn."""
    import numpy as np
    import torch

    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
