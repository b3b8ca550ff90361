"""What a made model scores on held-out clips; the tiny one as it goes into the package, with its card."""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors.torch import load_file

from ..data.processors.config_file import read_config
from ..data.synthetic.clips import make_clip
from ..data.synthetic.spec import SyntheticSpec
from ..data.video.config import VideoConfig
from ..eval.config import EvalConfig
from ..eval.runner import evaluate
from ..eval.summary import print_results
from ..eval.tasks import DataBenchmark, Question
from ..eval.tasks.data import load_test_rows
from ..files.make_once import MARKER
from ..hosts.folders import ModelSpec
from ..hosts.load import default_device, load_model
from ..hosts.sizes import TRAINED
from ..hosts.tiny import ASSETS
from ..pruning.config import STTSConfig

MAX_FRAMES = 128
PRIOR_CLIPS = 1000
"""Training clips whose answers are counted."""
CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: video-text-to-text
---

# stts-{name}

A {family} of {millions} million parameters that answers questions about generated clips: grey scenes in which
coloured shapes flash up for half a second. It exists so that token pruning can be tried, trained and compared in
minutes on a CPU; it knows nothing else. Plain transformers loads it (`{model_class}`), without any scorer: it was
trained without pruning.

## How it was made

`python scripts/make_tiny.py{argument}` with the settings of `configs/make_tiny.yaml`, from random weights (seed
{seed}) on generated clips, nothing else. `stts/curriculum/stages.py` describes the four stages.

## What it scores

Accuracy without pruning on {questions} multiple-choice questions about clips it has not seen. Prior: accuracy of
always giving the answer that is the commonest among training questions of the same kind.

| questions | count | accuracy | prior |
|---|---|---|---|
{rows}

## Licence

Apache-2.0, like the code that made it.
"""
FAMILIES = {"molmo2": "Molmo2", "qwen3_vl": "Qwen3-VL"}
"""How families are written."""
NAMES = {family: name for name, family in TRAINED.items()}
"""By family: the tiny model of it."""


def score_on_test(folder: Path, data: Path, spec: SyntheticSpec, output_dir: Path) -> dict[str, Any]:
    """Ask the model in folder the test questions of data, which was generated with spec.

    Returns what stts.eval.runner.evaluate does, with a "prior" in each category.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of the scorer, which nothing asks here: a second run finds the same model
        model, processor = load_model(ModelSpec(str(folder)), STTSConfig(prune_ratio=0.0))
    model.to(default_device())
    files = {"annotations": str(data / "train.jsonl"), "test_annotations": str(data / "test.jsonl")}
    questions = load_test_rows(DataBenchmark("synthetic", data={"name": "jsonl", **files}))
    asking = EvalConfig("synthetic", VideoConfig(MAX_FRAMES), progress=False)
    results = evaluate(model, processor, questions, asking, output_dir)
    print_results(results)
    return results | {"by_category": _with_priors(results["by_category"], questions, spec)}


def _with_priors(
    by_category: Mapping[str, Mapping[str, Any]], questions: Sequence[Question], spec: SyntheticSpec
) -> dict[str, dict[str, Any]]:
    """Each category's results with "prior": how often the commonest answer of training questions is right."""
    answers: dict[tuple, Counter] = defaultdict(Counter)
    for index in range(PRIOR_CLIPS):
        for asked in make_clip("train", index, spec)[2]:
            answers[asked["category"], *asked["options"]][asked["answer"]] += 1
    guessed: dict[str, list[bool]] = defaultdict(list)
    for question in questions:
        ((commonest, _),) = answers[question.category, *question.options].most_common(1)
        guessed[question.category].append(question.options[question.answer] == commonest)
    return {name: {**result, "prior": fmean(guessed[name])} for name, result in by_category.items()}


def write_card(folder: Path, results: Mapping[str, Any], seed: int) -> None:
    """Write README.md beside the weights. results: as `score_on_test` returns them."""
    parts = results["by_category"]
    prior = sum(part["prior"] * part["n"] for part in parts.values()) / results["n"]
    whole = {"n": results["n"], "accuracy": results["accuracy"], "prior": prior}
    rows = [
        f"| {name} | {part['n']} | {part['accuracy']:.3f} | {part['prior']:.3f} |"
        for name, part in [*sorted(parts.items()), ("all", whole)]
    ]
    config, family = read_config(folder), made_of(folder)
    count = sum(weight.numel() for weight in load_file(folder / "model.safetensors").values())
    text = CARD.format(
        name=NAMES[family].replace("_", "-"),
        family=FAMILIES[family],
        millions=f"{count / 1e6:.2f}",
        model_class=config["architectures"][0],
        argument="" if family == "molmo2" else f" host={family}",
        seed=seed,
        questions=results["n"],
        rows="\n".join(rows),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def made_of(folder: Path) -> str:
    """The family of a made model, a key of FAMILIES."""
    return read_config(folder)["model_type"]


def install_tiny(folder: Path, results: Mapping[str, Any], seed: int, target: Path | None = None) -> Path:
    """Copy a made model into the package, or to target, with its card; returns where it is now."""
    target = target or ASSETS / NAMES[made_of(folder)]
    target.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name != MARKER:
            shutil.copyfile(path, target / path.name)
    write_card(target, results, seed)
    return target
