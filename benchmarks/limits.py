"""How much faster pruning could make the models people use: the ratio of multiply-adds, as a table in Markdown.

    PYTHONPATH=. python benchmarks/limits.py             # all of NAMES
    PYTHONPATH=. python benchmarks/limits.py internvl3   # those whose names begin so

Models are built without weights. Of each row: the limit of a pass over the prompt at 50 and 80 %, when windows are
dropped in the ViT, and in brackets when the same are dropped behind it. 64 tokens of text and 10 a frame are counted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from stts import STTSConfig
from stts.hosts.flops_any import limit, multiply_adds
from stts.hosts.folders import ModelSpec
from stts.plan.models import Model, find_model
from stts.pruning.windows import Grid

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "model"
FRAMES, RATIOS = (64, 128, 256), (0.5, 0.8)
NAMES = (
    "qwen3_vl_2b",
    "qwen3_vl_8b",
    "qwen3_5_9b",
    "qwen2_5_vl_3b",
    "qwen2_5_vl_7b",
    "qwen2_vl_2b",
    "glm4_1v_9b",
    "video_llama_3_2b",
    "llava_onevision_0_5b",
    "llava_onevision_7b",
    "llava_next_video_7b",
    "internvl3_1b",
    "internvl3_8b",
    "smolvlm2_2b",
    "idefics3_8b",
    "gemma3_4b",
    "gemma4_e4b",
)
"""Of configs/model."""


def described(name: str) -> tuple[Model, Grid]:
    """A model without weights, and rows and columns of patches of its frames."""
    path = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["path"]
    model = find_model(ModelSpec(path=path))
    of_any_size = (22, 40) if name.startswith("qwen3") else (24, 42)
    return model, model.host.frame_grid or of_any_size


def row(name: str) -> str:
    model, grid = described(name)
    host, per_unit = model.host, model.frames_of_unit
    inside = STTSConfig().for_windows(host.unit)
    behind = inside.replace(policy="evs")
    cost = multiply_adds(host, inside, 64 // per_unit, grid, logits=1)
    cells = [name, f"{host.unit} x {host.unit}", f"{cost.vision / cost.total:.0%}"]
    for frames in FRAMES:
        for ratio in RATIOS:
            found = [
                limit(host, stts, frames // per_unit, grid, ratio, logits=1) for stts in (inside, behind)
            ]
            cells.append(f"{found[0]:.2f} ({found[1]:.2f})")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prefix", nargs="?", default="")
    prefix = parser.parse_args().prefix
    heads = ["model", "window", "ViT at 64"] + [f"{n} frames, {r:.0%}" for n in FRAMES for r in RATIOS]
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for name in NAMES:
        if name.startswith(prefix):
            print(row(name), flush=True)


if __name__ == "__main__":
    main()
