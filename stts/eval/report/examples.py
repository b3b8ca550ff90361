"""Pictures for a report: some questions are asked again, to see what each run kept of their videos."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from ...data.evidence import evidence_items, evidence_scores
from ...data.processors.molmo2 import VideoProcessor
from ...data.prompts import LETTERS
from ...data.video.config import VideoConfig
from ...hosts.folders import ModelSpec
from ...hosts.load import load_model
from ...pruning.config import STTSConfig
from ...settings.typed import from_dict
from ...viz.kept_video import PICTURE_SIDE, KeptVideo, kept_of
from ...viz.overlay import draw_kept
from ..reading import read_clip, seen_evidence
from ..runner import weights_digest
from ..tasks import Question, read_benchmark
from ..tasks.registry import load_questions
from .html import Example, Section
from .runs import EvaluatedRun

NEEDED = ("benchmark", "checkpoint", "frames", "model", "policy", "prune_ratio", "seed", "stts", "video")
"""What a run's config.yaml must have for its model to be asked again."""


def draw_examples(section: Section, count: int) -> list[Example]:
    """Up to `count` questions of a benchmark, with what every one of its runs kept.

    The models are loaded one after another and shown the videos again; policies that draw by chance may draw
    other windows than they did in the evaluation. Raises ValueError where a model is not the one that was
    evaluated any more, or something it needs is gone.
    """
    chosen = choose_questions([line.run for line in section.lines], count)
    questions = _find_questions(section.lines[0].run, chosen)
    looked = {line.name: _look_at_all(line.run, questions) for line in section.lines}
    return [
        _example(section, question, {name: videos[i] for name, videos in looked.items()})
        for i, question in enumerate(questions)
    ]


def choose_questions(runs: Sequence[EvaluatedRun], count: int) -> list[str]:
    """Ids of questions that every run was asked: those on which most runs disagree first, each about another
    video while there are any."""
    by_run = [{record["id"]: record for record in run.records if record["error"] is None} for run in runs]
    common = [name for name in by_run[0] if all(name in records for records in by_run)]
    right = {name: sum(records[name]["correct"] for records in by_run) for name in common}
    ranked = sorted(common, key=lambda name: -min(right[name], len(runs) - right[name]))
    chosen: list[str] = []
    seen: set[str] = set()
    for name in ranked:
        if by_run[0][name]["video"] not in seen:
            chosen.append(name)
            seen.add(by_run[0][name]["video"])
    return (chosen + [name for name in ranked if name not in chosen])[:count]


def read_config(run: EvaluatedRun) -> dict[str, Any]:
    """The settings a run was started with. Raises ValueError where it has none."""
    path = run.folder / "config.yaml"
    if not path.is_file():
        raise ValueError(f"{path} is missing, so its model cannot be asked again: set examples=0")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML that can be read: set examples=0; {error}") from error
    if missing := [key for key in NEEDED if not isinstance(config, dict) or key not in config]:
        raise ValueError(
            f"{path} does not hold the settings of a run ({missing[0]} is missing): set examples=0"
        )
    return config


def _find_questions(run: EvaluatedRun, ids: Sequence[str]) -> list[Question]:
    spec = read_benchmark(read_config(run)["benchmark"])
    by_id = {question.id: question for question in load_questions(spec, allow_missing=True)}
    if lost := [name for name in ids if name not in by_id]:
        raise ValueError(
            f"{run.folder}: benchmark {spec.name} has no question {lost[0]!r} now: set examples=0"
        )
    return [by_id[name] for name in ids]


def _look_at_all(run: EvaluatedRun, questions: Sequence[Question]) -> list[KeptVideo]:
    config = read_config(run)
    stts = from_dict(STTSConfig, {key: config[key] for key in ("prune_ratio", "policy")} | config["stts"])
    torch.manual_seed(config["seed"])  # of the scorer of a model that has none yet
    model, processor = load_model(from_dict(ModelSpec, config["model"], "model"), stts, config["checkpoint"])
    if weights_digest(model) != run.settings.get("weights"):
        raise ValueError(
            f"{run.folder}: its model has other weights now than those evaluated: set examples=0"
        )
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    video = from_dict(VideoConfig, {"frames": config["frames"], **config["video"]})
    return [_look_at(model, processor, question, video, config["seed"]) for question in questions]


def _look_at(
    model: nn.Module, processor: VideoProcessor, question: Question, video: VideoConfig, seed: int
) -> KeptVideo:
    clip = read_clip(question, video, processor.image_size)
    pictures = read_clip(question, video, max(PICTURE_SIDE, processor.image_size))
    given = {}
    if model.stts.policy == "given":
        scores = evidence_scores(seen_evidence(processor, question, clip))
        given["window_scores"] = torch.from_numpy(scores).to(model.device)
    return kept_of(model, processor, clip, pictures, seed=seed, **given)


def _example(section: Section, question: Question, videos: Mapping[str, KeptVideo]) -> Example:
    replies = []
    for line in section.lines:
        record = next(record for record in line.run.records if record["id"] == question.id)
        replies.append((line.name, _reply(record), record["correct"]))
    return Example(
        section.benchmark,
        question.question,
        question.options,
        question.options[question.answer],
        tuple(replies),
        _draw(question, videos),
    )


def _reply(record: Mapping[str, Any]) -> str:
    if record["predicted"] is None:
        return f"no option: {record.get('reply', '')!r}"
    return record["options"][LETTERS.index(record["predicted"])]


def _draw(question: Question, videos: Mapping[str, KeptVideo]) -> tuple[bytes, ...]:
    """A picture for each set of runs that saw the same frames, a row a run, evidence outlined."""
    seen: dict[tuple[float, ...], dict[str, KeptVideo]] = {}
    for name, video in videos.items():
        seen.setdefault(tuple(video.timestamps), {})[name] = video
    return tuple(_picture(question, alike) for alike in seen.values())


def _picture(question: Question, videos: Mapping[str, KeptVideo]) -> bytes:
    first = next(iter(videos.values()))
    evidence = None
    if question.evidence:
        items = evidence_items(question.evidence, first.timestamps, *first.keep.shape[1:])
        evidence = items.any(0).reshape(first.keep.shape)
    keeps = {name.replace(", ", "\n"): video.keep for name, video in videos.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = draw_kept(first.pictures, keeps, Path(folder, "kept.png"), first.timestamps, evidence)
        return path.read_bytes()
