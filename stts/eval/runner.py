"""The evaluation loop: read, encode, ask, record; a restarted run goes on where the last one stopped."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from itertools import islice, repeat
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from ..data.evidence import evidence_recall
from ..data.feed.budget import Size, past_context
from ..data.prefetch import prefetch
from ..data.processors.base import Processor
from ..data.prompts import LETTERS
from .asking import Ask, Item, Reply, device_of, encode, make_ask, seed_of
from .config import EvalConfig
from .masks import pack_mask
from .portions import Portion, batches, portions, share_of
from .progress import EvalProgress, show_progress
from .reading import ReadVideo, read_for_questions
from .records import Record, Records, describe_question, write_json
from .summary import speed_of, summarize
from .tasks.question import Question

logger = logging.getLogger(__name__)


class Processes(Protocol):
    """Those of a launch by accelerate or torchrun; accelerate's PartialState is one."""

    process_index: int
    num_processes: int

    def wait_for_everyone(self) -> None: ...


class Alone:
    """One process."""

    process_index, num_processes = 0, 1

    def wait_for_everyone(self) -> None:
        """There is nobody else."""


def evaluate(
    model: nn.Module,
    processor: Processor,
    questions: Sequence[Question],
    config: EvalConfig,
    output_dir: str | PathLike,
    processes: Processes | None = None,
) -> dict[str, Any]:
    """Ask a model multiple-choice questions about videos.

    model: a pruning model, as load_model gives it, on the device to use; processes: all must call this with the same
    arguments and share output_dir. None: only this process asks. Writes into output_dir settings.json,
    predictions.jsonl (a line a question, after each batch), results.json, the same however often the run was
    stopped and by however many processes, and speed.json. Returns what the last two hold. What was recorded before
    is not asked again.
    Raises ValueError when output_dir holds predictions of other settings, naming the setting; VideoError for
    a video that cannot be read, and ValueError for a question that cannot be asked, unless config.bad_videos is
    "wrong".
    """
    questions, folder = questions[: config.limit], Path(output_dir)
    processes = processes or Alone()
    settings = run_settings(config, model)
    records = _open_records(folder, settings, processes)
    records.check_questions(questions)
    todo = [portion for portion in portions(questions, config.batch_size) if _is_open(portion, records.by_id)]
    processes.wait_for_everyone()  # nobody writes before all have read
    if mine := share_of(todo, processes.process_index, processes.num_processes):
        ask = make_ask(model, processor, questions, config)
        with _inference(model), _show_progress(config, mine, records, processes) as progress:
            _ask_portions(model, ask, processor, config, mine, records, progress)
    processes.wait_for_everyone()
    if processes.process_index == 0:
        found = records.merge(questions)
        write_json(folder / "speed.json", speed_of(found))
        write_json(folder / "results.json", summarize(found, settings))
    processes.wait_for_everyone()
    return _read(folder / "results.json") | _read(folder / "speed.json")


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _open_records(folder: Path, settings: dict[str, Any], processes: Processes) -> Records:
    """The first process goes first: it repairs what a killed run left, and writes the settings."""
    if processes.process_index:
        processes.wait_for_everyone()
    records = Records(folder, settings, processes.process_index)
    if not processes.process_index:
        processes.wait_for_everyone()
    return records


def _show_progress(
    config: EvalConfig, mine: Sequence[Portion], records: Records, processes: Processes
) -> AbstractContextManager[EvalProgress]:
    """How far this process is with the questions that it asks."""
    ids = [question.id for portion in mine for shared in portion for question in shared]
    name, shown = config.benchmark, config.progress and processes.process_index == 0
    if processes.num_processes > 1:
        name += f", 1 of {processes.num_processes} processes"
    return show_progress(name, len(ids), sum(name in records.by_id for name in ids), shown)


def _is_open(portion: Portion, recorded: dict[str, Record]) -> bool:
    return any(question.id not in recorded for shared in portion for question in shared)


def _ask_portions(
    model: nn.Module,
    ask: Ask,
    processor: Processor,
    config: EvalConfig,
    todo: Sequence[Portion],
    records: Records,
    progress: EvalProgress,
) -> None:
    """Ask one portion after the other, whose videos are read ahead."""
    clips = [shared for portion in todo for shared in portion]
    with closing(prefetch(partial(read_for_questions, processor, config), clips, config.workers)) as videos:
        encoded = _encoded(model, config, videos, records, progress)
        encoded = _look_at_context(model, processor, encoded)
        started = time.perf_counter()
        for portion in todo:
            items = [item for items in islice(encoded, len(portion)) for item in items]
            for batch in batches([item.num_tokens for item in items], config.batch_size, config.max_tokens):
                # A batch is asked as a whole, even if part of it is recorded: so the others are asked as ever.
                together = [items[place] for place in batch]
                if new := sum(item.question.id not in records.by_id for item in together):
                    replies = ask(together)
                    started, seconds = time.perf_counter(), time.perf_counter() - started
                    records.append(map(_record, together, replies, repeat(seconds / len(together))))
                    progress.answered(new)


def _encoded(
    model: nn.Module,
    config: EvalConfig,
    videos: Iterator[ReadVideo],
    records: Records,
    progress: EvalProgress,
) -> Iterator[list[Item]]:
    """The questions about each video, ready to be asked; what could not be read or asked is recorded."""
    for video in videos:
        if video.error is not None:
            _record_bad(records, progress, [_unread(question, video.error) for question in video.questions])
            yield []
            continue
        if video.refused:
            _record_bad(records, progress, [_refused(*bad, video) for bad in video.refused])
        if not video.questions:
            yield []
            continue
        visual = encode(model, video.tensors, seed_of(video.questions[0], config.seed))
        progress.encoded(video.frames)
        mask = pack_mask(visual.keep.cpu().numpy().reshape(video.grid)) if config.masks else None
        parts = zip(video.questions, video.prompts, video.evidence, strict=True)
        yield [
            Item(question, prompt, visual, video.frames, evidence, video.span, mask)
            for question, prompt, evidence in parts
        ]


def _look_at_context(
    model: nn.Module, processor: Processor, encoded: Iterable[list[Item]]
) -> Iterator[list[Item]]:
    """The same questions again, with a warning about the first that is longer than the model was made for."""
    told = False
    for items in encoded:
        for item in items:
            size = Size(item.num_tokens, item.frames)
            length = len(item.prompt["input_ids"])
            past = past_context(length, size, processor.context_length, model.stts.position_ids)
            if past and not told:
                logger.warning("question %r has %s (later ones are not told)", item.question.id, past)
                told = True
        yield items


def _record_bad(records: Records, progress: EvalProgress, bad: Sequence[Record]) -> None:
    new = sum(record["id"] not in records.by_id for record in bad)
    records.append(bad)
    progress.answered(new)


def _record(item: Item, reply: Reply, seconds: float) -> Record:
    """One line of predictions.jsonl.

    kept is the share of windows, evidence_recall that of the evidence; null where unknown: no video, no evidence
    recorded, none of it in a sampled frame. frames: shown of the video; span: seconds from the first of them to the
    last; mask: as masks.pack_mask writes it, where config.masks asks for it.
    """
    keep = item.visual.keep.cpu()
    return describe_question(item.question) | {
        "predicted": None if reply.predicted is None else LETTERS[reply.predicted],
        "correct": reply.predicted == item.question.answer,
        "frames": item.frames,
        "span": item.span,
        "kept": keep.float().mean().item(),
        "evidence_recall": evidence_recall(item.evidence, keep.numpy()),
        "error": None,
        "seconds": round(seconds, 4),
        **reply.said,
        **({"mask": item.mask} if item.mask else {}),
    }


def _unread(question: Question, error: str) -> Record:
    unknown = dict.fromkeys(("predicted", "frames", "span", "kept", "evidence_recall"))
    return describe_question(question) | unknown | {"correct": False, "error": error, "seconds": 0.0}


def _refused(question: Question, error: str, video: ReadVideo) -> Record:
    """Of a question that could not be asked about a video that was read: it has a span, which _unread has not."""
    return _unread(question, error) | {"frames": video.frames, "span": video.span}


def run_settings(config: EvalConfig, model: nn.Module) -> dict[str, Any]:
    """What the predictions of a run depend on, the model's part included."""
    return config.compared() | model.stts.to_dict() | {"weights": weights_digest(model)}


def weights_digest(model: nn.Module) -> str:
    """A short name for a model's weights, from a sample of every parameter; training changes it."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().flatten()
        sample = flat[:: max(1, len(flat) // 256)].float().cpu()
        digest.update(name.encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]


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
