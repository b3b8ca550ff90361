"""Reading a video once for all questions about it, while the model is busy with the ones before."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..data.evidence import evidence_scores
from ..data.processors.base import Processor, evidence_in
from ..data.video.config import FOLDER_FPS, VideoConfig
from ..data.video.decode import VideoError
from ..data.video.read import Clip, open_reader, read_video
from .config import EvalConfig
from .tasks.question import Question

_TOKENIZER = threading.Lock()
"""Fast tokenizers refuse to be used by two threads at a time."""


@dataclass(frozen=True)
class ReadVideo:
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
    grid: tuple[int, ...] = ()
    """(T, rows, cols) of its windows."""


def read_for_questions(processor: Processor, config: EvalConfig, questions: Sequence[Question]) -> ReadVideo:
    """Read the video that all these questions are about.

    Raises VideoError where that fails, and ValueError naming a question whose text cannot be a prompt or whose
    subtitles cannot be read; neither where config.bad_videos is "wrong".
    """
    try:
        clip = read_clip(questions[0], config.video, processor.image_size)
    except VideoError as error:
        if config.bad_videos == "stop":
            raise
        return ReadVideo(questions, error=str(error))
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
        return ReadVideo((), span=span, frames=len(clip.frames), refused=refused)
    scores = evidence_scores(np.concatenate(items))
    video = processor.video_tensors(clip) | {"window_scores": torch.from_numpy(scores)}
    grid = processor.window_grid(clip)
    return ReadVideo(asked, video, prompts, items, span, None, len(clip.frames), refused, grid)


def seen_evidence(processor: Processor, question: Question, clip: Clip) -> np.ndarray:
    """(E, T, W) bool, True where a piece of the E that the answer rests on can be seen."""
    return evidence_in(processor, question.evidence, clip)


def _prompt(processor: Processor, question: Question, clip: Clip) -> dict[str, Tensor]:
    try:
        turn = {"role": "user", "content": question.text(clip.timestamps)}
        return processor.text_tensors([turn], clip, add_generation_prompt=True)
    except (ValueError, OSError) as error:  # OSError: of its subtitle file
        raise ValueError(f"question {question.id!r}: {error}") from error


def read_clip(question: Question, video: VideoConfig, size: int | None) -> Clip:
    """What is shown of a question's video, in frames of size x size, None: as stored.

    Raises VideoError as read_video does.
    """
    return read_video(
        question.video,
        video.frames,
        max_fps=video.max_fps,
        start=question.start,
        end=shown_until(question, video.backend),
        size=size,
        backend=video.backend,
        sampling=video.sampling,
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
