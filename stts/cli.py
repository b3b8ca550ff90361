"""What the scripts share: Hydra in, plain dicts and dataclasses out, errors without a traceback.

Hydra composes configs/; launch() turns the result into a plain dict, once. Nothing else sees a DictConfig,
and nothing here imports torch: a mistyped setting is reported at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

CONFIG_DIR = Path(__file__).resolve().parents[1] / "configs"
USAGE_ERROR = 2
"""Exit status for a command that cannot be carried out as it was given."""
GLOBAL = "# @package _global_"
"""Hydra's first line of a file whose keys do not go below its group."""
FILE_ERRORS = (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
"""What a path may be wrong with that no check of the settings has found."""

T = TypeVar("T")


def launch(task: Callable[[dict[str, Any]], int | None], config_name: str) -> None:
    """Run a script: compose configs/<config_name>.yaml with the command line and call task with a plain dict.

    In a sweep (-m) task runs once for each combination. The process exits with what task returns; a
    ValueError, or a path that cannot be what it must be, is printed as one message with exit status 2
    (HYDRA_FULL_ERROR=1 shows where it came from).
    """
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(explain(config_name))
        return
    started = False
    top_level = {key.split(".")[0] for key in _known_keys(config_name)}

    def run(config: DictConfig) -> None:
        nonlocal started
        started = True
        if code := _run_cleanly(task, config, top_level):
            sys.exit(code)

    try:
        hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=config_name)(run)()
    except SystemExit as stop:
        if started or not stop.code:
            raise
        print(_hint(config_name, sys.argv[1:]), end="", file=sys.stderr)
        sys.exit(USAGE_ERROR)  # Hydra has printed what it could not compose


def _run_cleanly(
    task: Callable[[dict[str, Any]], int | None], config: DictConfig, top_level: Iterable[str]
) -> int | None:
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        expect_keys(plain, top_level)
        return task(plain)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, OmegaConfBaseException, *FILE_ERRORS) as error:
        if os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR


def _config_text(config_name: str) -> str:
    """A script's config, and after it those it includes by name in its defaults."""
    text = (CONFIG_DIR / f"{config_name}.yaml").read_text()
    included = re.findall(r"^  - ([a-z]\w*)$", text, flags=re.MULTILINE)
    return "\n".join([text, *map(_config_text, included)])


def _known_keys(config_name: str) -> list[str]:
    """Every key that a script's command line may set, config groups included."""
    text = _config_text(config_name)
    known = [key for key, _, _ in documented_keys(text)]
    for group, _ in _default_groups(text):
        files = sorted((CONFIG_DIR / group).glob("*.yaml"))
        known += [group, *(key for file in files for key, _, _ in _keys_of(group, file.read_text()))]
    return known


def _hint(config_name: str, arguments: Iterable[str]) -> str:
    """The known keys closest to those of the command line that are not known, a line each."""
    known = _known_keys(config_name)
    keys = [argument.split("=")[0].lstrip("+~") for argument in arguments if "=" in argument]
    close = {key: difflib.get_close_matches(key, known, n=1) for key in keys if key not in known}
    return "".join(f"{key}: did you mean {match[0]}?\n" for key, match in close.items() if match)


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build a dataclass from a mapping, nested dataclasses included.

    where: the key that holds the mapping, for messages. Raises ValueError naming a key that is unknown (with
    the closest known one), missing, or of the wrong type; whole numbers pass for floats.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is {values!r}, must be a group of settings")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    expect_keys(values, fields, where)
    hints = typing.get_type_hints(cls)
    built = {}
    for name, field in fields.items():
        if name in values:
            built[name] = _convert(values[name], hints[name], _join(where, name))
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{_join(where, name)} is missing")
    return cls(**built)


def expect_keys(values: Mapping[str, Any], known: Iterable[str], where: str = "") -> None:
    """Raises ValueError for the first key that is not known, with the closest that is."""
    known = list(known)
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {_join(where, close[0])}?" if close else f"known: {', '.join(known)}"
            raise ValueError(f"{_join(where, key)} is not a setting; {hint}")


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _convert(value: Any, hint: Any, where: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(value, Mapping):
            return from_dict(option, value, where)
        if option is float and type(value) in (int, float):
            return float(value)
        if option is Path and isinstance(value, str):
            return Path(value)
        if typing.get_origin(option) is tuple and isinstance(value, list | tuple):
            return tuple(value)
        plain = typing.get_origin(option) or option
        if isinstance(value, plain) and not (isinstance(value, bool) and plain is int):
            return value
    names = " or ".join("null" if o is types.NoneType else getattr(o, "__name__", str(o)) for o in options)
    raise ValueError(f"{where} is {value!r}, must be {names}")


def explain(config_name: str) -> str:
    """The --help text: every key with its default and the comment beside it, then the groups."""
    text = _config_text(config_name)
    parts = [*_header(text), "", "Settings (key, default, meaning):", *_table(documented_keys(text))]
    for group, default in _default_groups(text):
        parts += ["", f"{group}=NAME, one of (default {default}):"]
        for file in sorted((CONFIG_DIR / group).glob("*.yaml")):
            parts.append(f"  {file.stem:<20}  {' '.join(_header(file.read_text()))}")
        if (chosen := CONFIG_DIR / group / f"{default}.yaml").exists():
            parts.append(f"keys of {group}={default}:")
            parts += _table(_keys_of(group, chosen.read_text()))
    parts += [
        "",
        "-m runs every combination of comma-separated values; --cfg job prints the composed config.",
    ]
    return "\n".join(parts)


def _header(text: str) -> list[str]:
    """The comment a YAML file opens with, without Hydra's package line."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return [line.lstrip("#")[1:] for line in lines if line != GLOBAL]


def documented_keys(text: str) -> Iterator[tuple[str, str, str]]:
    """(dotted key, default, comment) of each leaf in YAML text; `defaults` and `hydra` are left out.

    A comment stands on the key's own line or on the lines directly above it.
    """
    path: list[tuple[int, str]] = []
    above = ""
    for line in itertools.dropwhile(lambda line: line.startswith("#"), text.splitlines()):
        if comment := re.fullmatch(r"\s*# ?(.*)", line):
            above = f"{above} {comment[1]}".strip()
            continue
        if match := re.fullmatch(r"""(\s*)([\w/]+):\s*("[^"]*"|'[^']*'|.*?)(?:\s*(?<!\S)#\s*(.*))?""", line):
            indent, key, value, beside = len(match[1]), match[2], match[3], match[4] or ""
            path = [*(entry for entry in path if entry[0] < indent), (indent, key)]
            if value and path[0][1] not in ("defaults", "hydra"):
                yield ".".join(name for _, name in path), value, f"{above} {beside}".strip()
        above = ""


def _keys_of(group: str, text: str) -> Iterator[tuple[str, str, str]]:
    """documented_keys of one file of a group, named as the command line names them."""
    where = "" if text.startswith(GLOBAL) else f"{group}."
    yield from ((where + key, *rest) for key, *rest in documented_keys(text))


def _default_groups(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^  - (?:optional )?([a-z]\w*): (\S+)", text, flags=re.MULTILINE)


def _table(rows: Iterable[tuple[str, str, str]]) -> list[str]:
    rows = list(rows)
    width = max((len(key) for key, _, _ in rows), default=0)
    return [f"  {key:<{width}}  {value:<10}  {meaning}".rstrip() for key, value, meaning in rows]
