"""python scripts/make_tiny.py: train the weights of model=tiny, or of another family's tiny model, from nothing.

--help explains every key.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from stts.settings.launch import launch
from stts.settings.next_command import suggest
from stts.settings.typed import from_dict


def main(config: dict[str, Any]) -> None:
    """Train through the curriculum, score the result on held-out clips; put the tiny model into the package."""
    from stts.curriculum.card import install_tiny, score_on_test
    from stts.curriculum.stages import Curriculum, run_curriculum
    from stts.data.synthetic.spec import SyntheticSpec

    names = [field.name for field in dataclasses.fields(Curriculum)]
    curriculum = from_dict(Curriculum, {name: config[name] for name in names})
    output_dir = Path(config["output_dir"])
    folder = run_curriculum(curriculum, output_dir, lambda text: print(text, flush=True))
    spec = SyntheticSpec(**config["data"])
    results = score_on_test(folder, output_dir / "data", spec, output_dir / "scores")
    if config["install"]:
        installed = install_tiny(folder, results, curriculum.seed)
        print(f"installed in {installed}")
        suggest("train", model=None if installed.name == "tiny" else installed.name)
    else:
        print(f"the model is in {folder}")
        suggest("train", **{"model.path": folder})


if __name__ == "__main__":
    launch(main, "make_tiny")
