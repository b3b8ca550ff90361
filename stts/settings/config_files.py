"""What configs/ says about itself, read as text: keys, their comments, the files of a group; --help."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

CONFIG_DIR = Path(__file__).resolve().parents[2] / "configs"
GLOBAL = "# @package _global_"
"""Hydra's first line of a file whose keys do not go below its group."""


def explain(config_name: str) -> str:
    """The --help text: every key with its default and the comment beside it, then the groups."""
    text = config_text(config_name)
    parts = [*_header(text), "", "Settings (key, default, meaning):", *_table(documented_keys(text))]
    for group, default in default_groups(text):
        parts += ["", f"{group}=NAME, one of (default {default}):"]
        for file in sorted((CONFIG_DIR / group).glob("*.yaml")):
            parts.append(f"  {file.stem:<20}  {' '.join(_header(file.read_text()))}")
        if (chosen := CONFIG_DIR / group / f"{default}.yaml").exists():
            parts.append(f"keys of {group}={default}:")
            parts += _table(keys_of(group, chosen.read_text()))
    parts += [
        "",
        "-m runs every combination of comma-separated values; --cfg job prints the composed config.",
    ]
    return "\n".join(parts)


def known_keys(config_name: str) -> list[str]:
    """Every key that a script's command line may set, config groups included."""
    text = config_text(config_name)
    known = [key for key, _, _ in documented_keys(text)]
    for group, _ in default_groups(text):
        files = sorted((CONFIG_DIR / group).glob("*.yaml"))
        known += [group, *(key for file in files for key, _, _ in keys_of(group, file.read_text()))]
    return known


def config_text(config_name: str) -> str:
    """A script's config, and after it those it includes by name in its defaults."""
    text = (CONFIG_DIR / f"{config_name}.yaml").read_text()
    included = re.findall(r"^  - ([a-z]\w*)$", text, flags=re.MULTILINE)
    return "\n".join([text, *map(config_text, included)])


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


def keys_of(group: str, text: str) -> Iterator[tuple[str, str, str]]:
    """documented_keys of one file of a group, named as the command line names them."""
    where = "" if text.startswith(GLOBAL) else f"{group}."
    yield from ((where + key, *rest) for key, *rest in documented_keys(text))


def default_groups(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^  - (?:optional )?([a-z]\w*): (\S+)", text, flags=re.MULTILINE)


def _table(rows: Iterable[tuple[str, str, str]]) -> list[str]:
    rows = list(rows)
    width = max((len(key) for key, _, _ in rows), default=0)
    return [f"  {key:<{width}}  {value:<10}  {meaning}".rstrip() for key, value, meaning in rows]


def misplaced(config_name: str, arguments: Iterable[str]) -> dict[str, str]:
    """Arguments whose key belongs to other files of its group than the chosen one -> what to do about each."""
    chosen, told = _chosen(config_name, arguments), {}
    for argument in arguments:
        key = argument.partition("=")[0].lstrip("+~")
        group = key.partition(".")[0]
        if group not in chosen or group == key:
            continue
        owners = [path.stem for path in _files(group) if key in _own_keys(group, path.stem)]
        if owners and chosen[group] not in owners and (CONFIG_DIR / group / f"{chosen[group]}.yaml").exists():
            told[argument] = (
                f"{key} is a setting of {', '.join(f'{group}={name}' for name in owners)}, not of "
                f"{group}={chosen[group]}: add {group}={owners[0]}"
            )
    return told


def _chosen(config_name: str, arguments: Iterable[str]) -> dict[str, str]:
    """The file of each group that a command line chooses, by itself, by an experiment or by default."""
    chosen = dict(default_groups(config_text(config_name)))
    named = {key: value for key, _, value in (argument.partition("=") for argument in arguments)}
    for group in ("experiment", "debug"):
        path = CONFIG_DIR / group / f"{named.get(group)}.yaml"
        if path.is_file():
            chosen |= dict(re.findall(r"override /(\w+): (\w+)", path.read_text()))
    return {group: named.get(group, name) for group, name in chosen.items()}


def _files(group: str) -> list[Path]:
    return sorted((CONFIG_DIR / group).glob("*.yaml"))


def _own_keys(group: str, name: str) -> list[str]:
    return [key for key, _, _ in keys_of(group, (CONFIG_DIR / group / f"{name}.yaml").read_text())]
