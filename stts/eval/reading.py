"""Reading a video once for all questions about it, while the model is busy with the ones before."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..data.evidence import evidence_items, evidence_scores
from ..data.processors.molmo2 import VideoProcessor
from ..data.video.decode import VideoError
from ..data.video.frame_folder import FOLDER_FPS
from ..data.video.read import Clip, open_reader, read_video
from ..pruning.windows import window_grid
from .config import EvalConfig
from .tasks.base import Question

In, Out = TypeVar("In"), TypeVar("Out")

_TOKENIZER = threading.Lock()
"""Fast tokenizers refuse to be used by two threads at a time."""


@dataclass(frozen=True)
class Watched:
    """A video that was read, with the prompts of all questions about it, or the reason why it could not be."""

    questions: Sequence[Question]
    """Those that can be asked; all of them where the video could not be read."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    """The processor's tensors of the frames, and window_scores (T, W), by which policy "given" keeps all evidence."""
    prompts: Sequence[dict[str, Tensor]] = ()
    """The processor's tensors of the text, one of each question."""
    evidence: Sequence[np.ndarray] = ()
    """(E, T, W) bool of each question, True where a piece of the E that its answer rests on can be seen."""
    span: float | None = None
    """Seconds from the first frame that is shown to the last."""
    error: str | None = None
    """Why the video could not be read."""
    frames: int | None = None
    """How many are shown."""
    refused: Sequence[tuple[Question, str]] = ()
    """Questions that cannot be asked about it, and why."""


def watch(processor: VideoProcessor, config: EvalConfig, questions: Sequence[Question]) -> Watched:
    """Read the video that all these questions are about.

    Raises VideoError where that fails, and ValueError naming a question whose text cannot be a prompt or whose
    subtitles cannot be read; neither where config.bad_videos is "wrong".
    """
    try:
        clip = read_clip(questions[0], config, processor.image_size)
    except VideoError as error:
        if config.bad_videos == "stop":
            raise
        return Watched(questions, error=str(error))
    asked, prompts, items, refused = [], [], [], []
    for question in questions:
        try:
            with _TOKENIZER:
                prompt = _prompt(processor, question, clip)
            items.append(seen_evidence(processor, question, clip))
        except ValueError as error:
            if config.bad_videos == "stop":
                raise
            refused.append((question, str(error)))
            continue
        asked.append(question)
        prompts.append(prompt)
    span = float(clip.timestamps[-1] - clip.timestamps[0])
    if not asked:
        return Watched((), span=span, frames=len(clip.frames), refused=refused)
    scores = evidence_scores(np.concatenate(items))
    video = processor.video_tensors(clip) | {"window_scores": torch.from_numpy(scores)}
    return Watched(asked, video, prompts, items, span, None, len(clip.frames), refused)


def seen_evidence(processor: VideoProcessor, question: Question, clip: Clip) -> np.ndarray:
    """(E, T, W) bool, True where a piece of the E that the answer rests on can be seen."""
    sizes = window_grid(processor.grid, processor.pool_width)
    return evidence_items(question.evidence, clip.timestamps, *sizes)


def _prompt(processor: VideoProcessor, question: Question, clip: Clip) -> dict[str, Tensor]:
    try:
        turn = {"role": "user", "content": question.text(clip.timestamps)}
        return processor.prompt_tensors([turn], clip.timestamps, add_generation_prompt=True)
    except (ValueError, OSError) as error:  # OSError: of its subtitle file
        raise ValueError(f"question {question.id!r}: {error}") from error


def read_clip(question: Question, config: EvalConfig, size: int) -> Clip:
    """What is shown of a question's video, in frames of size x size. Raises VideoError as read_video does."""
    return read_video(
        question.video,
        config.frames,
        max_fps=config.max_fps,
        start=question.start,
        end=shown_until(question, config.backend),
        size=size,
        backend=config.backend,
        sampling=config.sampling,
        folder_fps=question.frame_fps or FOLDER_FPS,
    )


def shown_until(question: Question, backend: str) -> float | None:
    """The second at which what is shown ends; None: at the end of the file.

    The frame before end_frame is the last.
    """
    if question.end_frame is None:
        return question.end
    reader = open_reader(question.video, backend, question.frame_fps or FOLDER_FPS)
    if reader.cut_short:  # then an end that lies past what is there must not pass
        return question.end
    last = float(reader.times[min(question.end_frame, len(reader.times)) - 1])
    return last if question.end is None else min(question.end, last)


def map_ahead(function: Callable[[In], Out], items: Iterable[In], workers: int) -> Iterator[Out]:
    """map(function, items) in order, in `workers` threads that run at most so many items ahead.

    What function raises comes where its result would have come.
    """
    pool, waiting = ThreadPoolExecutor(workers), deque[Future]()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
