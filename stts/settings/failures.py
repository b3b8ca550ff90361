"""Which errors are about the command, its files or the disk: those are told as one message, without a traceback."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from omegaconf.errors import GrammarParseError, InterpolationKeyError, OmegaConfBaseException

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_TEXTS = tuple(f"os error {number})" for number in FULL)
"""How errors of libraries written in Rust end."""
TORCH_FULL = re.compile(r"inline_container.* unexpected pos|PytorchStreamWriter failed writing")
"""What torch.save says of a file that did not grow."""


def as_message(error: BaseException) -> str | None:
    """What to tell the user of an error; None for one that nobody foresaw, whose traceback is wanted."""
    if _is_full(error):
        where = next((e.filename for e in _chain(error) if isinstance(e, OSError) and e.filename), None)
        said = str(error).partition("\n")[0]
        return f"no room left on the disk{f' for {where}' if where else ''} ({said}): make room, then run this again"
    if isinstance(error, GrammarParseError | InterpolationKeyError):
        return f"{str(error).strip()}\nin a value ${{KEY}} stands for another key; write \\${{ for the characters"
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    return str(error) if isinstance(error, ValueError | OmegaConfBaseException) else None


def _is_full(error: BaseException) -> bool:
    return any(
        (isinstance(e, OSError) and e.errno in FULL)
        or str(e).endswith(FULL_TEXTS)
        or TORCH_FULL.search(str(e))
        for e in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
