"""A plug-in for vLLM, which finds it by the entry point group vllm.general_plugins: `vllm serve FOLDER` prunes.

Nothing here is imported without vLLM. docs/serving.md says how to install and use it.
"""

from __future__ import annotations

import logging
from importlib.metadata import version

ARCHITECTURE = "STTSMolmo2ForConditionalGeneration"
"""What saved folders call their model in config.json. vLLM's own name of Molmo2 stays vLLM's."""
TESTED = "0.32.0"
"""vLLM's version. Its inner parts change from one minor version to the next."""
LEAST_TRANSFORMERS = "5.20"
"""The first with Molmo2."""

logger = logging.getLogger("vllm.stts")


def register() -> None:
    """Called by vLLM in every process it starts, maybe twice. Under versions that cannot work it says so and leaves
    vLLM as it is, for the sake of other models."""
    if unfit := wrong_versions(*installed_versions()):
        logger.error(unfit)
        return
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    from . import loader  # noqa: F401  registers itself
    from .runner import teach_cpu_runner
    from .settings import ServedMolmo2

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, f"{__name__}.model:{ARCHITECTURE}")
    MODELS_CONFIG_MAP[ARCHITECTURE] = ServedMolmo2
    teach_cpu_runner()


def installed_versions() -> tuple[str, str]:
    """vLLM's, transformers'."""
    from vllm import __version__  # its distribution has another name on CPUs

    return __version__, version("transformers")


def wrong_versions(vllm: str, transformers: str) -> str | None:
    """What to say where these do not go together; None where they do."""
    from packaging.version import Version

    if Version(vllm).release[:2] != Version(TESTED).release[:2]:
        return (
            f"this is vLLM {vllm}, stts serves with {TESTED}: folders of stts are not served; "
            f"pip install vllm=={TESTED} (docs/serving.md)"
        )
    if Version(transformers) < Version(LEAST_TRANSFORMERS):
        return (
            f"this is transformers {transformers}, stts needs {LEAST_TRANSFORMERS} or newer: folders of stts are not "
            "served; pip install --no-deps transformers==5.23.0 (docs/serving.md)"
        )
    return None
