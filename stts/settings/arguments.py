"""The command line made readable to Hydra, whose grammar knows neither é nor =, ( or # in a value.

Paths and texts may hold any character: what the grammar would not read, or would read as something else, is quoted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf.errors import GrammarParseError
from omegaconf.grammar_parser import parse

TEXTS = frozenset(
    {
        *("annotations", "test_annotations", "checkpoint", "data_root", "folder", "output", "output_dir"),
        *("path", "results", "root", "video", "entity", "name", "project", "question", "title"),
    }
)
"""Last part of the keys whose value is a path or a text, whatever it looks like."""
LISTS_OF_TEXTS = frozenset({"compare", "models", "names", "options", "runs"})
ITEM = re.compile(r"""\s*('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[^,]*)\s*(,|$)""")
"""One item of a list: quoted, or up to the next comma."""
SWEEP_FLAGS = {"-m", "--multirun"}


def for_hydra(arguments: Sequence[str], known: Iterable[str]) -> list[str]:
    """The arguments with values quoted where Hydra needs it.

    known: the keys that may be set. In a sweep (-m) commas go on dividing values. Raises ValueError for an argument
    that is not KEY=VALUE, or whose value can be neither read nor taken for a text.
    """
    known, sweeping = set(known), bool(SWEEP_FLAGS & set(arguments))
    readable = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        belongs = before.startswith("-") and before not in SWEEP_FLAGS and "=" not in argument
        of_option = belongs or argument.startswith("-")
        readable.append(argument if of_option else _readable(argument, known, sweeping))
    return readable


def as_value(value: object) -> str:
    """A value, or a list of them, as it is written on the command line."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_item, map(str, value)))}]"
    return _quoted(str(value)) if _is_quoted(str(value)) else str(value)


def _item(text: str) -> str:
    return _quoted(text) if "," in text or _is_quoted(text) or text != text.strip() else text


def _is_quoted(value: str) -> bool:
    return value[:1] in ("'", '"') and value[:1] == value[-1:]


def _readable(argument: str, known: set[str], sweeping: bool) -> str:
    key, _, value = argument.partition("=")
    name = key.lstrip("+~")
    leaf = name.rpartition(".")[2] if name in known else ""
    in_brackets = value.startswith("[") and value.endswith("]")
    if leaf in TEXTS:
        return f"{key}={_sweep_of_texts(value) if sweeping else _text(value)}"
    if leaf in LISTS_OF_TEXTS and in_brackets and not (sweeping and _parsed(argument)):
        return f"{key}=[{_each(_text, value[1:-1])}]"
    if parsed := _parsed(argument):
        if parsed.is_sweep_override() and not sweeping:
            raise ValueError(
                f"{argument!r} has several values: add -m to run each, or write a list {key}=[{value}]"
            )
        return argument
    if leaf and not value.startswith(("[", "{")) and not (sweeping and "," in value):
        return f"{key}={_quoted(value)}"
    if not argument.partition("=")[1]:
        raise ValueError(f"{argument!r} is no setting, must be KEY=VALUE; --help lists the keys")
    raise ValueError(
        f"{argument!r} cannot be read: write {key}={_quoted(value)}, all of it in double quotes for the shell, if "
        "the value is a text; in a list or group put such quotes around the item that has odd characters"
    )


def _parsed(argument: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def _text(value: str) -> str:
    """A value that is to arrive as it is, unless it is empty, null or in quotes already."""
    parsed = _parsed(f"key={value}")
    if parsed:
        read = None if parsed.is_sweep_override() else parsed.value()
        if read == value or (_is_quoted(value) and isinstance(read, str)) or value.strip().lower() == "null":
            return value
    return _quoted(value)


def _sweep_of_texts(value: str) -> str:
    parsed = _parsed(f"key={value}")
    by_function = parsed and parsed.is_sweep_override() and re.match(r"[a-z]+\(", value)
    return value if by_function else _each(_text, value)


def _each(change: Callable[[str], str], items: str) -> str:
    """Change every item of a list that commas divide."""
    changed, place, comma = [], 0, items.strip()
    while comma:
        match = ITEM.match(items, place)
        changed.append(change(match[1].strip()))
        place, comma = match.end(), match[2]
    return ",".join(changed)


def _quoted(value: str) -> str:
    """In quotes for Hydra; ${ that is no complete interpolation is made plain text for OmegaConf."""
    try:
        parse(value)
    except GrammarParseError:
        value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return QuotedString(value, Quote.single).with_quotes()
