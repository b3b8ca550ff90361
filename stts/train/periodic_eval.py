"""A benchmark asked while training goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..eval.config import EvalConfig
from ..eval.tasks import Benchmark
from .run_folder import evaluation_folder

if TYPE_CHECKING:
    from torch import nn

    from ..data.processors.base import Processor

REPORTED = ("accuracy", "n", "kept", "evidence_recall")


def periodic_evaluation(
    spec: Benchmark, settings: EvalConfig, processor: Processor, output_dir: Path
) -> Callable[[nn.Module, int], Mapping[str, Any]]:
    """A function to give `train` as `evaluate`: it writes output_dir/eval/step-XXXXXXX and returns those of REPORTED.

    Raises ValueError at once, before training, when files of the benchmark are missing.
    """
    from ..eval.runner import evaluate
    from ..eval.tasks.registry import load_questions

    questions = load_questions(spec, settings.limit)

    def ask(model: nn.Module, step: int) -> Mapping[str, Any]:
        folder = evaluation_folder(output_dir, step)
        shutil.rmtree(folder, ignore_errors=True)  # left by a run that was killed before its next checkpoint
        results = evaluate(model, processor, questions, settings, folder)
        return {name: results[name] for name in REPORTED}

    return ask
