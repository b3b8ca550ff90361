"""A folder that is made once: built under another name, renamed when complete, known by its settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from .durable import whole_folder

MARKER = "made.json"


def make_once(folder: str | Path, settings: dict, build: Callable[[Path], None]) -> Path:
    """Return the folder that `build` fills under these settings, building it only if it is not there yet.

    settings: JSON values; a folder made with others is replaced as a whole, never mixed with the new one.
    build: fills the empty folder it is given. Its files appear under `folder` all at once, or not at all.
    Processes that ask for the same folder at the same time wait for one of them.
    Raises ValueError when `folder` holds anything this function did not put there: it will not delete it.
    """
    folder = Path(folder).absolute()
    settings = json.loads(json.dumps(settings))  # tuples become lists, as they will be read back
    if is_made(folder, settings):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if not is_made(folder, settings):  # another process may have made it meanwhile
            _check_replaceable(folder)
            with whole_folder(folder) as partial:
                build(partial)
                made = {"settings": settings, "files": _files(partial)}
                (partial / MARKER).write_text(json.dumps(made, indent=1))
    return folder


def is_made(folder: Path, settings: dict) -> bool:
    """Whether folder was made with these settings and nothing it was made with has gone."""
    made = _read_marker(folder)
    if made is None or made["settings"] != settings:
        return False
    return all((folder / name).exists() for name in made["files"])


def _read_marker(folder: Path) -> dict | None:
    """What the folder was made from; None when it carries no record of it."""
    path = folder / MARKER
    if not path.is_file():
        return None
    try:
        made = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); remove the folder to make it anew") from error
    if not isinstance(made, dict) or set(made) != {"settings", "files"}:
        raise ValueError(f"{path} does not record how the folder was made; choose another folder")
    return made


def _files(folder: Path) -> list[str]:
    """All files below folder but the marker, relative and sorted."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    return sorted(set(paths) - {MARKER})


def _check_replaceable(folder: Path) -> None:
    """Refuse to replace what we did not make."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, must be a folder to fill or a new name")
    if not folder.exists() or not any(folder.iterdir()):
        return
    made = _read_marker(folder)
    if made is None:
        raise ValueError(f"{folder} holds files that were not generated; choose a new or an empty folder")
    strangers = sorted(set(_files(folder)) - set(made["files"]))
    if strangers:
        raise ValueError(
            f"{folder} was generated with other settings and also holds {strangers[0]}, which would be lost; "
            "choose another folder or move that file away"
        )
