"""The method, and no host: scores of windows, what is kept, attention over survivors.

The package is also a function: stts.pruning(cls) is the pruning subclass of a transformers class
(stts.hosts.classes.pruning), whichever of both was imported first.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, cls: type, host: type | None = None) -> Any:
        """The pruning subclass of a transformers VLM class: as stts.hosts.classes.pruning."""
        return importlib.import_module("stts.hosts.classes").pruning(cls, host)


sys.modules[__name__].__class__ = _Callable
