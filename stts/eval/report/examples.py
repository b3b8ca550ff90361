"""Examples for a report: some questions, what each run answered, and what it kept of their videos."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ...data.evidence import evidence_items
from ...data.prompts import LETTERS
from ...data.video.config import VideoConfig
from ...data.video.read import Clip
from ...viz.kept_video import PICTURE_SIDE
from ...viz.overlay import draw_kept
from ..masks import by_frame, unpack_mask
from ..reading import read_clip
from ..tasks import Question, read_benchmark
from ..tasks.registry import load_questions
from .html import Example, Section
from .runs import EvaluatedRun

Record = Mapping[str, Any]


def draw_examples(section: Section, count: int) -> list[Example]:
    """Up to `count` questions of a benchmark, with what every one of its runs answered and kept.

    What was kept stands in the predictions of runs with eval.masks=true; it is drawn on frames of the videos, and no
    model is asked. The others are named in Example.not_drawn. Raises ValueError where a run with masks does not say
    which questions it was asked, or a video cannot be read or is another one now.
    """
    chosen = choose_questions([line.run for line in section.lines], count)
    by_id = {line.name: {record["id"]: record for record in line.run.records} for line in section.lines}
    records = {name: {line: found[name] for line, found in by_id.items()} for name in chosen}
    runs = {line.name: line.run for line in section.lines}
    return [_example(section.benchmark, runs, records[name]) for name in chosen]


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


def _example(benchmark: str, runs: Mapping[str, EvaluatedRun], records: Mapping[str, Record]) -> Example:
    """records: of one question, by the name of the run."""
    asked = next(iter(records.values()))
    masked = {name: record for name, record in records.items() if record.get("mask")}
    return Example(
        benchmark,
        asked["question"],
        tuple(asked["options"]),
        asked["options"][LETTERS.index(asked["answer"])],
        tuple((name, _reply(record), record["correct"]) for name, record in records.items()),
        _draw(runs, masked) if masked else (),
        tuple(name for name in records if name not in masked),
    )


def _reply(record: Record) -> str:
    if record["predicted"] is None:
        return f"no option: {record.get('reply', '')!r}"
    return record["options"][LETTERS.index(record["predicted"])]


def _draw(runs: Mapping[str, EvaluatedRun], masked: Mapping[str, Record]) -> tuple[bytes, ...]:
    """A picture for each set of runs that saw the same frames, a row a run, evidence outlined."""
    first = next(iter(masked))
    question = find_question(runs[first], masked[first]["id"])
    clips: dict[VideoConfig, Clip] = {}
    alike: dict[tuple[float, ...], dict[str, np.ndarray]] = {}
    shown: dict[tuple[float, ...], Clip] = {}
    for name, record in masked.items():
        video = _video_settings(runs[name])
        clips[video] = clips.get(video) or read_clip(question, video, PICTURE_SIDE)
        times = tuple(clips[video].timestamps)
        shown[times] = clips[video]
        alike.setdefault(times, {})[name] = _mask(runs[name], record, len(times))
    return tuple(_picture(question, shown[times], keeps) for times, keeps in alike.items())


def find_question(run: EvaluatedRun, name: str) -> Question:
    """The question of that id in the benchmark of a run's config.yaml. Raises ValueError if it is gone."""
    path = run.folder / "config.yaml"
    try:
        benchmark = read_benchmark(yaml.safe_load(path.read_text(encoding="utf-8"))["benchmark"])
    except (OSError, yaml.YAMLError, TypeError, KeyError, ValueError) as error:
        raise ValueError(
            f"{path} does not say where the videos are ({error}): set examples=0 to draw none"
        ) from error
    for question in load_questions(benchmark, allow_missing=True):
        if question.id == name:
            return question
    raise ValueError(f"{run.folder}: benchmark {benchmark.name} has no question {name!r} now: set examples=0")


def _video_settings(run: EvaluatedRun) -> VideoConfig:
    names = [field.name for field in dataclasses.fields(VideoConfig)]
    return VideoConfig(**{name: run.settings[name] for name in names if name in run.settings})


def _mask(run: EvaluatedRun, record: Record, frames: int) -> np.ndarray:
    """(frames, rows, cols) bool."""
    try:
        return by_frame(unpack_mask(record["mask"]), frames)
    except ValueError as error:
        raise ValueError(f"{run.folder}: question {record['id']!r}: {error}: set examples=0") from error


def _picture(question: Question, clip: Clip, keeps: Mapping[str, np.ndarray]) -> bytes:
    """keeps: name of a run -> (T, rows, cols) bool."""
    keep = next(iter(keeps.values()))
    evidence = None
    if question.evidence:
        items = evidence_items(question.evidence, clip.timestamps, *keep.shape[1:])
        evidence = items.any(0).reshape(keep.shape)
    rows = {name.replace(", ", "\n"): kept for name, kept in keeps.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = draw_kept(clip.frames, rows, Path(folder, "kept.png"), clip.timestamps, evidence)
        return path.read_bytes()
