"""The model all arms start from, when it has to see new kinds of clips first: fine-tuned without pruning."""

from __future__ import annotations

import dataclasses
import json
from contextlib import redirect_stdout
from pathlib import Path

from ..data.digest import digest
from ..data.load import DataPaths
from ..eval.records import write_json
from ..hosts.classes import remove_stts
from ..hosts.folders import ModelSpec
from ..pruning.config import STTSConfig
from .arms import Arm, Recipe, fine_tune


def unpruned_base(recipe: Recipe, spec: ModelSpec, data: DataPaths, folder: Path) -> ModelSpec:
    """The spec with its weights fine-tuned on the clips, nothing dropped, and saved as transformers' own class does:
    every arm then gets a fresh scorer, as from a model that never pruned.

    A run that was stopped goes on, a finished one is found again. Raises ValueError when the folder holds one of
    other settings.
    """
    recipe = dataclasses.replace(recipe, processes=1)
    made_of = {"recipe": dataclasses.asdict(recipe), "model": dataclasses.asdict(spec)}
    settings = made_of | {"data": digest(data.train)}
    settings = json.loads(json.dumps(settings))
    done, plain = folder / "base.json", folder / "plain"
    if done.is_file() and json.loads(done.read_text()) != settings:
        raise ValueError(f"{folder} holds a base of other settings: choose another output_dir")
    if not done.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "log.txt", "a") as log, redirect_stdout(log):
            model, processor = fine_tune(Arm("base", STTSConfig(policy="none")), recipe, spec, data, folder)
        remove_stts(model)
        model.save_pretrained(plain)
        processor.save_pretrained(plain)
        write_json(done, settings)
    return dataclasses.replace(spec, path=str(plain))
