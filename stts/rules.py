"""What settings may hold: a rule beside each field, and the settings that earlier versions had.

    batch_size: int = field(default=8, metadata=at_least(1))

says what the field must be; check_rules, called by the class's __post_init__, raises for the first that is not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """What a value must be."""

    fits: Callable[[Any], bool]
    words: str
    """What stands after "must be"."""
    choices: tuple[str, ...] = ()
    """All values there are, where these are a few names."""

    def holds(self, value: Any) -> bool:
        """Whether a value fits; one that cannot even be compared, such as null in a list of numbers, does not."""
        try:
            return bool(self.fits(value))
        except TypeError:
            return False


Metadata = dict[str, Rule]
"""Of a field: its rule, under "rule"."""


def rule(fits: Callable[[Any], bool], words: str) -> Metadata:
    """Any other rule. words: what a value must be."""
    return {"rule": Rule(fits, words)}


def at_least(least: float) -> Metadata:
    return rule(lambda value: value >= least, "0 or more" if least == 0 else f"at least {least}")


def above(bound: float) -> Metadata:
    return rule(lambda value: value > bound, f"above {bound}")


def between(low: float, high: float, ends: str = "[]") -> Metadata:
    """ends: a bracket for each end: [ and ] belong to the interval, ( and ) do not."""

    def fits(value: float) -> bool:
        above_low = value >= low if ends[0] == "[" else value > low
        return above_low and (value <= high if ends[1] == "]" else value < high)

    return rule(fits, f"in {ends[0]}{low}, {high}{ends[1]}")


def one_of(*choices: str) -> Metadata:
    few = len(choices) <= 3
    words = f"{', '.join(choices[:-1])} or {choices[-1]}" if few else f"one of {', '.join(choices)}"
    return {"rule": Rule(lambda value: value in choices, words, choices)}


def or_null(metadata: Metadata) -> Metadata:
    """The same rule for a field that may also be None."""
    given = metadata["rule"]
    return rule(lambda value: value is None or given.fits(value), f"{given.words} or null")


def check(ok: bool, key: str, value: object, words: str) -> None:
    """Raises ValueError for the setting `key`, e.g. "train.lora", unless ok. words: the rule, "must be ..."."""
    if not ok:
        shown = list(value) if isinstance(value, tuple) else value  # as YAML has it
        raise ValueError(f"{key} is {shown!r}, {words}")


def check_rules(settings: Any, where: str = "", **keys: str) -> None:
    """Raises ValueError, naming the key, for the first field of a dataclass that breaks the rule beside it.

    where: the key that holds the settings on the command line; keys: field -> its key, where that is another one.
    """
    for field in dataclasses.fields(settings):
        if wanted := field.metadata.get("rule"):
            value = getattr(settings, field.name)
            key = keys.get(field.name, f"{where}.{field.name}" if where else field.name)
            check(wanted.holds(value), key, value, f"must be {wanted.words}")


NOTHING = object()


@dataclass(frozen=True)
class Gone:
    """A setting that earlier versions had."""

    why: str
    """What follows on "is gone: ", and what to do."""
    default: object = NOTHING
    """The value that meant to do without it: saved settings that have it load as ever."""


GONE = {
    "stts.center_targets": Gone(
        "it taught the scorer less, accuracy 0.688 against 0.878 without (docs/evidence.md); leave it out, or take "
        "commit 394e82f, the last that has it",
        default=False,
    ),
    "model=small": Gone("it was never trained; take model=tiny, or a real model"),
    "size": Gone("it said which of our own models to make; tiny is the only one left"),
}
"""By key, as on the command line; a file of a config group as "group=file"."""


def refuse_gone(settings: Mapping[str, Any], where: str = "") -> None:
    """Raises ValueError for the first of nested settings, or of a command line's, that is gone."""
    for name, value in settings.items():
        key = f"{where}.{name}" if where else str(name)
        if found := GONE.get(key) or GONE.get(f"{key}={value}"):
            raise ValueError(_sentence(key, value, found))
        if isinstance(value, Mapping):
            refuse_gone(value, key)


def without_gone(saved: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Settings that an earlier version saved, less those that are gone. where: the key that holds them.

    Raises ValueError for one that is gone and was set to anything but its default.
    """
    kept = {}
    for name, value in saved.items():
        key = f"{where}.{name}" if where else str(name)
        found = GONE.get(key)
        if found and value != found.default:
            raise ValueError(_sentence(key, value, found))
        if not found:
            kept[name] = without_gone(value, key) if isinstance(value, Mapping) else value
    return kept


def _sentence(key: str, value: object, gone: Gone) -> str:
    return f"{key}={value} is gone: {gone.why}"
