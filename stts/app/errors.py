"""What a visitor is told of an error: the library's own words, without the paths of the machine."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..settings.failures import as_message

logger = logging.getLogger(__name__)

FOLDERS = re.compile(r"(?<![\w.:/~])~?(?:/[^/\s'\"<>]+)+/(?=[^/\s])")
"""The folders in front of a file's name."""


def told(error: BaseException, folders: Iterable[Path] = ()) -> str:
    """The text of an error; one that nobody foresaw goes to the log in full. folders: that are not to be named."""
    text = as_message(error)
    if text is None:
        logger.error("the page met an error that nobody foresaw", exc_info=error)
        first = str(error).strip().partition("\n")[0]
        text = f"an error that nobody foresaw, {type(error).__name__}: {first} (the server's log has more)"
    return without_folders(text, folders)


def without_folders(text: str, folders: Iterable[Path] = ()) -> str:
    """The text with the names of files in place of their paths."""
    known = {str(folder) for folder in folders} | {str(Path.cwd()), str(Path.home())}
    for folder in sorted(known - {"/"}, key=len, reverse=True):
        text = text.replace(f"{folder}/", "").replace(folder, Path(folder).name)
    return FOLDERS.sub("", text)


class _Ear(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.thread, self.texts = threading.get_ident(), []

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread:
            self.texts.append(record.getMessage())


@contextmanager
def heard() -> Iterator[list[str]]:
    """Inside, the list gets what the library warns of in this thread."""
    ear, library = _Ear(), logging.getLogger(__package__.partition(".")[0])
    library.addHandler(ear)
    try:
        yield ear.texts
    finally:
        library.removeHandler(ear)
