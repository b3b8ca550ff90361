"""A plug-in for lmms-eval, which finds the model under the name "stts" once both are installed."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """What lmms-eval is told, through the entry point group lmms_eval.models: a lmms_eval ModelManifest."""
    from lmms_eval.models.registry_v2 import ModelManifest

    home = f"{__name__}.model"
    return ModelManifest("stts", simple_class_path=f"{home}.STTS", chat_class_path=f"{home}.ChatSTTS")
