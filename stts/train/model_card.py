"""The README.md beside a trained model: what it was made from and how, what it scored, how to load it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..files.durable import read_rows
from ..pruning.config import STTSConfig
from .run_folder import read_settings

if TYPE_CHECKING:
    from torch import nn

HUB_ID = r"\w[\w.-]*/[\w.-]+"
CARD = """\
{front_matter}
# {name}

{summary}

| | |
| --- | --- |
{facts}

## Results

{results}

## Use

```python
import stts

model, processor = stts.load("path/to/this/folder")
clip = stts.data.read_video("clip.mp4", frames={frames})
print(stts.answer(model, processor, "What happens first?", clip))
```

Plain transformers loads the language and vision weights too, without the scorer and without pruning
(`{plain_class}.from_pretrained`).

## Licence

{licence}
"""


def front_matter(values: Mapping[str, Any]) -> str:
    """The YAML block that a card opens with; what is None is left out."""
    known = {key: value for key, value in values.items() if value is not None}
    return f"---\n{yaml.safe_dump(known, sort_keys=False)}---\n"


def read_front_matter(folder: Path) -> dict[str, Any]:
    """What the card of a model folder says of itself; {} where there is no card or no such block."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    block = re.match(r"---\n(.*?)\n---\n", text, flags=re.DOTALL)
    try:
        values = yaml.safe_load(block[1]) if block else None
    except yaml.YAMLError:
        values = None
    return values if isinstance(values, dict) else {}


def run_card(output_dir: Path, model: nn.Module, step: int, max_steps: int) -> str:
    """The text of the card for the model that a run has after `step` of max_steps.

    Read from what the run has written by then: config.yaml (where the run was given settings), metrics.jsonl and
    eval.jsonl. The licence is the one stated on the card of the folder the model was loaded from.
    """
    output_dir, base_folder = Path(output_dir), Path(str(getattr(model, "name_or_path", "") or "."))
    settings = read_settings(output_dir) if (output_dir / "config.yaml").exists() else {}
    base = _base(settings, base_folder)
    licence = read_front_matter(base_folder).get("license")
    return CARD.format(
        front_matter=front_matter(
            {
                "license": licence,
                "library_name": "transformers",
                "pipeline_tag": "video-text-to-text",
                "base_model": base if re.fullmatch(HUB_ID, base) else None,
            }
        ),
        name=output_dir.absolute().name,
        summary=_summary(model.stts, base),
        facts="\n".join(
            f"| {key} | {value} |"
            for key, value in _facts(output_dir, settings, model.stts, base, step, max_steps)
        ),
        results=_results([row for row in read_rows(output_dir / "eval.jsonl") if row["step"] <= step]),
        frames=settings.get("frames", 64),
        plain_class=getattr(model, "base", type(model)).__name__,
        licence=f"That of the base model, which its card gives as {licence}."
        if licence
        else "That of the base model, whose folder has no card that states one.",
    )


def _base(settings: Mapping[str, Any], folder: Path) -> str:
    """What the run started from, as it was asked for; without settings, the name of the folder."""
    model = settings.get("model", {})
    return str(settings.get("checkpoint") or model.get("path") or model.get("name") or folder.absolute().name)


def _summary(stts: STTSConfig, base: str) -> str:
    if not stts.prune_ratio:
        return f"`{base}`, fine-tuned on video questions without pruning."
    rank = {"scorer": "a learned scorer ranks them", "random": "chosen at random"}
    how = rank.get(stts.policy, f"ranked by the policy `{stts.policy}`")
    return (
        f"`{base}`, fine-tuned with Spatio-Temporal Token Scoring ([arXiv 2603.18004]"
        f"(https://arxiv.org/abs/2603.18004)): {stts.prune_ratio:.0%} of a video's windows are dropped after ViT "
        f"block {stts.insert_after}, {how}; the rest of the ViT, the adapter and the LLM never see them."
    )


def _facts(
    output_dir: Path, settings: Mapping[str, Any], stts: STTSConfig, base: str, step: int, max_steps: int
) -> list[tuple[str, str]]:
    """The rows of the table; those that need settings are left out where there are none."""
    facts = [("base model", f"`{base}`"), ("prune ratio", f"{stts.prune_ratio:g}"), ("policy", stts.policy)]
    if settings:
        data, train = settings["data"], settings["train"]
        facts.insert(1, ("data", _data(data)))
        facts.append(
            ("frames", f"at most {settings['frames']}, at most {settings['video']['max_fps']:g} a second")
        )
        epochs = f" ({train['epochs']:g} epochs)" if train.get("epochs") else ""
        facts.append(("steps", f"{step} of {max_steps}{epochs}"))
        rates = ", ".join(f"{name} {rate:g}" for name, rate in train["lr"].items())
        facts.append(("peak learning rates", rates))
        if lora := train.get("lora"):
            facts.append(
                ("LLM", f"trained through LoRA adapters of rank {lora.get('rank', 'default')}, merged")
            )
    else:
        facts.append(("steps", f"{step} of {max_steps}"))
    rows = [row for row in read_rows(output_dir / "metrics.jsonl") if row["step"] == step]
    if rows:
        facts.append(("training loss at the last step", f"{rows[-1]['loss']:.4f}"))
    return facts


def _data(data: Mapping[str, Any]) -> str:
    """What was trained on, from the settings of data."""
    if data.get("datasets"):
        parts = []
        for name, part in data["datasets"].items():
            weight = "" if part.get("weight") is None else f", weight {part['weight']:g}"
            parts.append(f"{name} ({_data(part)}{weight})")
        return "a mixture: " + ", ".join(parts)
    if data.get("annotations"):
        return f"{data['name']}: `{data['annotations']}`"
    return "clips generated by stts" if data["name"] == "synthetic" else data["name"]


def _results(evaluations: Sequence[Mapping[str, Any]]) -> str:
    """A line per evaluation during training, the last one last."""
    if not evaluations:
        return "It was not evaluated during training."
    names = [name for name in ("accuracy", "n", "kept", "evidence_recall") if name in evaluations[-1]]
    lines = [f"| step | {' | '.join(names)} |", "| --- " * (len(names) + 1) + "|"]
    for row in evaluations:
        cells = " | ".join("-" if row.get(name) is None else f"{row[name]:.4g}" for name in names)
        lines.append(f"| {row['step']} | {cells} |")
    return "Evaluated during training (n: questions; kept: share of windows):\n\n" + "\n".join(lines)
