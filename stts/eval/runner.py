"""The evaluation loop: decode, ask, record; a restarted run goes on where the last one stopped."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn

from ..data.collator import Collator
from ..data.decode import VideoError
from ..data.evidence import evidence_windows
from ..data.processing import VideoProcessor
from ..data.prompts import LETTERS
from ..data.video import Clip, read_video
from .asking import Ask, Reply, device_of, make_ask
from .config import EvalConfig
from .records import Record, Records, describe, write_json
from .report import summarize
from .tasks.base import Question

CLIPS_IN_MEMORY = 2
"""Decoded clips held for further questions about them."""

ReadClip = Callable[[Path, float | None, float | None], Clip]


@dataclass(frozen=True)
class Prepared:
    """A question whose video was read, ready to be batched, or the reason why it could not be."""

    question: Question
    example: dict[str, Any] | None = None
    evidence: Tensor | None = None
    """(T, W) bool, True where the answer can be seen."""
    error: str | None = None


def evaluate(
    model: nn.Module,
    processor: VideoProcessor,
    questions: Sequence[Question],
    config: EvalConfig,
    output_dir: str | PathLike,
) -> dict[str, Any]:
    """Ask a model multiple-choice questions about videos.

    model: an STTSMolmo2ForConditionalGeneration, on the device to use. Writes into output_dir settings.json,
    predictions.jsonl (a line a question, after each batch) and results.json; returns what results.json holds.
    What predictions.jsonl already has is not asked again.
    Raises ValueError when output_dir holds predictions of other settings, naming the setting; VideoError for
    a video that cannot be read, unless config.bad_videos is "wrong".
    """
    questions = questions[: config.limit]
    settings = run_settings(config, model)
    records = Records(Path(output_dir), settings)
    records.check_questions(questions)
    batches = [(i, questions[i : i + config.batch_size]) for i in range(0, len(questions), config.batch_size)]
    # A batch is asked as a whole even if part of it is recorded: the random policy draws for all of it.
    todo = [(i, batch) for i, batch in batches if any(question.id not in records.by_id for question in batch)]
    if todo:
        ask, collate = make_ask(model, processor, questions, config), Collator(processor.pad_token_id)
        prepare = partial(_prepare, processor, _clip_reader(processor, config), config)
        with _inference(model), _progress(config, questions, todo) as advance:
            started = time.perf_counter()
            for first, batch in _ahead(prepare, todo):
                torch.manual_seed(config.seed * 1_000_003 + first)
                replies = _ask(ask, collate, batch)
                started, seconds = time.perf_counter(), time.perf_counter() - started
                records.append(_record(item, reply, seconds / len(batch)) for item, reply in replies)
                advance(len(batch))
    results = summarize([records.by_id[question.id] for question in questions], settings)
    write_json(Path(output_dir) / "results.json", results)
    return results


def run_settings(config: EvalConfig, model: nn.Module) -> dict[str, Any]:
    """What the predictions of a run depend on, the model's part included."""
    settings = config.compared() | model.stts.to_dict() | {"weights": weights_digest(model)}
    if model.stts.policy == "random":  # which draws a question gets depends on its batch
        settings["batch_size"] = config.batch_size
    return settings


def weights_digest(model: nn.Module) -> str:
    """A short name for a model's weights, from a sample of every parameter; training changes it."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().flatten()
        sample = flat[:: max(1, len(flat) // 256)].float().cpu()
        digest.update(name.encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def _clip_reader(processor: VideoProcessor, config: EvalConfig) -> ReadClip:
    """Decode a video, or the part of it from start to end; questions about the same one in a row share it."""

    @lru_cache(maxsize=CLIPS_IN_MEMORY)
    def read(path: Path, start: float | None, end: float | None) -> Clip:
        return read_video(
            path,
            config.frames,
            max_fps=config.max_fps,
            start=start,
            end=end,
            size=processor.image_size,
            backend=config.backend,
            sampling=config.sampling,
        )

    return read


def _prepare(
    processor: VideoProcessor, read: ReadClip, config: EvalConfig, batch: tuple[int, Sequence[Question]]
) -> tuple[int, list[Prepared]]:
    first, questions = batch
    return first, [_prepare_one(processor, read, config, question) for question in questions]


def _prepare_one(
    processor: VideoProcessor, read: ReadClip, config: EvalConfig, question: Question
) -> Prepared:
    try:
        clip = read(question.video, question.start, question.end)
    except VideoError as error:
        if config.bad_videos == "stop":
            raise
        return Prepared(question, error=str(error))
    turn = {"role": "user", "content": question.text(clip.timestamps)}
    try:
        example = processor([turn], clip, add_generation_prompt=True)
    except ValueError as error:
        raise ValueError(f"question {question.id!r}: {error}") from error
    evidence = None
    if question.evidence:
        rows, cols = example["video_grids"][0, 1:].tolist()
        evidence = torch.from_numpy(evidence_windows(question.evidence, clip.timestamps, rows, cols))
    return Prepared(question, example | {"id": question.id}, evidence)


def _ahead(prepare: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """map(prepare, items), each prepared in a thread while the one before is being used."""
    with ThreadPoolExecutor(1) as pool:
        waiting = None
        for item in items:
            ready, waiting = waiting, pool.submit(prepare, item)
            if ready is not None:
                yield ready.result()
        if waiting is not None:
            yield waiting.result()


def _ask(ask: Ask, collate: Collator, batch: Sequence[Prepared]) -> list[tuple[Prepared, Reply | None]]:
    """Each question with its reply; none where the video could not be read."""
    readable = [item for item in batch if item.example is not None]
    if not readable:
        return [(item, None) for item in batch]
    replies = iter(ask(collate([item.example for item in readable]), [item.question for item in readable]))
    return [(item, None if item.example is None else next(replies)) for item in batch]


def _record(item: Prepared, reply: Reply | None, seconds: float) -> Record:
    """One line of predictions.jsonl.

    kept is the share of windows, evidence_recall that of the windows with evidence; null where unknown: no
    video, no evidence recorded, none of it in a sampled frame.
    """
    question, predicted = item.question, reply.predicted if reply else None
    record = describe(question) | {
        "predicted": None if predicted is None else LETTERS[predicted],
        "correct": predicted == question.answer,
        "kept": None,
        "evidence_recall": None,
        "error": item.error,
        "seconds": round(seconds, 4),
    }
    if reply is not None:
        record |= reply.said
        record["kept"] = 1.0 if reply.keep is None else reply.keep.float().mean().item()
        if item.evidence is not None and item.evidence.any():
            record["evidence_recall"] = (
                1.0 if reply.keep is None else reply.keep[item.evidence].float().mean().item()
            )
    return record


@contextmanager
def _inference(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the model's mode and the random state are as before afterwards.

    Not inference_mode: what the model caches meanwhile must serve training too.
    """
    device, training = device_of(model), model.training
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        model.train(training)


@contextmanager
def _progress(
    config: EvalConfig, questions: Sequence[Question], todo: Sequence[tuple[int, Sequence[Question]]]
) -> Iterator[Callable[[int], None]]:
    """A bar over all questions, the recorded ones filled in, on the main process only."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    hidden = not config.progress or int(os.environ.get("RANK", "0")) != 0
    with Progress(*columns, TextColumn("eta"), TimeRemainingColumn(), disable=hidden) as progress:
        done = len(questions) - sum(len(batch) for _, batch in todo)
        task = progress.add_task(config.benchmark, total=len(questions), completed=done)
        yield lambda count: progress.advance(task, count)
