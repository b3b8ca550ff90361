"""Nested plain values -> dataclasses, with errors that name the key."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..rules import Rule

T = TypeVar("T")


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
            built[name] = _convert(values[name], hints[name], _join(where, name), field.metadata.get("rule"))
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


def _convert(value: Any, hint: Any, where: str, rule: Rule | None = None) -> Any:
    """A value as a field of this type takes it. Raises ValueError when it is of another type."""
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
    if rule and rule.choices:
        quoted = ", in quotes" if isinstance(value, bool) else ""  # which YAML makes of no, on, ...
        raise ValueError(f"{where} is {value!r}, must be {rule.words}{quoted}")
    names = " or ".join("null" if o is types.NoneType else getattr(o, "__name__", str(o)) for o in options)
    raise ValueError(f"{where} is {value!r}, must be {names}")
