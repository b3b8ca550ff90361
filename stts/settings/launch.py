"""What the scripts share: Hydra in, plain dicts and dataclasses out, errors without a traceback.

Hydra composes configs/; launch() turns the result into a plain dict, once. Nothing else sees a DictConfig,
and nothing here imports torch: a mistyped setting is reported at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from ..rules import refuse_gone
from .arguments import for_hydra
from .config_files import CONFIG_DIR, explain, known_keys, misplaced
from .failures import as_message
from .typed import expect_keys

USAGE_ERROR = 2
"""Exit status for a command that cannot be carried out as it was given."""
FAILED = 1
"""Exit status after an error that nobody foresaw."""
FIRST_OF_SIGNALS = 128
"""Exit statuses from here on tell of a signal, which is meant for a whole sweep."""
READ_BY_MACHINES = ("--cfg", "-c", "--info", "-i", "--hydra-help", "--version", "--shell-completion", "-sc")
"""Options of Hydra that print and do not run."""


@dataclasses.dataclass(frozen=True)
class Ended:
    """A run of the script, one of several in a sweep."""

    overrides: tuple[str, ...]
    status: int
    message: str = ""


def launch(task: Callable[[dict[str, Any]], int | None], config_name: str) -> None:
    """Run a script: compose configs/<config_name>.yaml with the command line and call task with a plain dict.

    The process exits with what task returns; a ValueError, or a file that cannot be read or written, is printed as
    one message with exit status 2 (HYDRA_FULL_ERROR=1 shows where it came from). In a sweep (-m) task runs once for
    each combination, also after one has failed; at the end those that failed are listed, and the highest status
    counts.
    """
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments):
        print(explain(config_name))
        return
    say_that_it_starts(config_name, arguments)
    known = known_keys(config_name)
    try:
        refuse_gone({key.lstrip("+~"): value for key, _, value in (a.partition("=") for a in arguments)})
        sys.argv[1:] = for_hydra(arguments, known)
        for argument, message in misplaced(config_name, arguments).items():
            if not argument.startswith("+"):
                raise ValueError(message)
        status = _run_with_hydra(task, config_name, {key.split(".")[0] for key in known})
    except ValueError as error:
        if full_errors():
            raise
        print(f"error: {error}", file=sys.stderr)
        status = USAGE_ERROR
    finally:
        sys.argv[1:] = arguments
    if status:
        sys.exit(status)


def say_that_it_starts(name: str, arguments: Sequence[str] = ()) -> None:
    """A line on stderr before the slow imports, unless the arguments ask for something to be read by a machine."""
    first = os.environ.get("RANK", "0") == "0"
    if first and not set(READ_BY_MACHINES) & {argument.partition("=")[0] for argument in arguments}:
        print(
            f"stts {name}: reading settings; loading torch takes some seconds ...",
            file=sys.stderr,
            flush=True,
        )


def _run_with_hydra(
    task: Callable[[dict[str, Any]], int | None], config_name: str, top_level: Iterable[str]
) -> int:
    """Returns the exit status. Where Hydra cannot compose the config, it has said why."""
    ended: list[Ended] = []
    started = False

    def run(config: DictConfig) -> None:
        nonlocal started
        started = True
        sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        result = _run_cleanly(task, config, top_level, keep_going=sweep)
        ended.append(result)
        if result.status > FIRST_OF_SIGNALS or (result.status and sweep and _is_one_of_several()):
            _list_failed(ended)
            sys.exit(result.status)  # the others of a launch must not wait for this one in another run

    try:
        hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name=config_name)(run)()
    except SystemExit as stop:
        if started or not stop.code:
            raise
        print(_hint(config_name, sys.argv[1:]), end="", file=sys.stderr)
        return USAGE_ERROR
    if ended and ended[0].status:
        print(
            "".join(f"{m}\n" for m in misplaced(config_name, sys.argv[1:]).values()), end="", file=sys.stderr
        )
    _list_failed(ended)
    return max((result.status for result in ended), default=0)


def _run_cleanly(
    task: Callable[[dict[str, Any]], int | None],
    config: DictConfig,
    top_level: Iterable[str],
    keep_going: bool,
) -> Ended:
    """Call the task. What is wrong with the command or its files is printed; with keep_going any error is."""
    overrides = tuple(OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False))
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        refuse_gone(plain)
        expect_keys(plain, top_level)
        return Ended(overrides, task(plain) or 0)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return Ended(overrides, 130, "interrupted")
    except Exception as error:
        message = as_message(error)
        if message is None and keep_going:
            traceback.print_exc()
            return Ended(overrides, FAILED, f"{type(error).__name__}: {error}")
        if message is None or full_errors():
            raise
        print(f"error: {message}", file=sys.stderr)
        return Ended(overrides, USAGE_ERROR, message)


def _list_failed(ended: Sequence[Ended]) -> None:
    """What became of the runs of a sweep of which some failed."""
    failed = [(number, result) for number, result in enumerate(ended) if result.status]
    if not failed or len(ended) < 2:
        return
    shared = set.intersection(*(set(result.overrides) for result in ended))
    print(f"{len(failed)} of {len(ended)} runs failed:", file=sys.stderr)
    for number, result in failed:
        own = " ".join(override for override in result.overrides if override not in shared)
        print(f"  #{number} {own}: {result.message or f'exit status {result.status}'}", file=sys.stderr)


def _is_one_of_several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def full_errors() -> bool:
    """Whether tracebacks are wanted of errors that are foreseen, too."""
    return os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")


def _hint(config_name: str, arguments: Iterable[str]) -> str:
    """The known keys closest to those of the command line that are not known, a line each."""
    known = known_keys(config_name)
    keys = [argument.split("=")[0].lstrip("+~") for argument in arguments if "=" in argument]
    close = {key: difflib.get_close_matches(key, known, n=1) for key in keys if key not in known}
    return "".join(f"{key}: did you mean {match[0]}?\n" for key, match in close.items() if match)
