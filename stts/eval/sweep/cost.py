"""What one question about one video costs a model: seconds measured, visual tokens and multiply-adds counted."""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from ...data.evidence import evidence_scores
from ...data.feed.collator import Collator
from ...data.processors.base import Processor
from ...data.video.config import VideoConfig
from ...hosts import flops_any, flops_qwen3_vl
from ...hosts.encoding import clips_of
from ...hosts.flops import FRAME_MARKERS, multiply_adds
from ..plan import EvalRun
from ..reading import read_clip, seen_evidence
from ..records import write_json
from ..tasks.question import Question
from .config import SweepConfig
from .results import read_records


@dataclass(frozen=True)
class Cost:
    """Means over the videos that were measured."""

    seconds: float
    """A forward pass over video and question, a batch of one: ViT, adapter and LLM up to the first new token.
    Decoding is left out. Of each video the quickest of the repeats: what else a machine does only adds."""
    visual_tokens: float
    """Windows that reach the LLM."""
    frames: float
    """Of a video; short ones have fewer than they may."""
    multiply_adds: float
    """Of that pass, as stts.hosts.flops counts them."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dataclasses.asdict(self)


def cost_of(model: nn.Module, processor: Processor, run: EvalRun, sweep: SweepConfig) -> dict[str, Any]:
    """The cost of an evaluated cell. Read from its cost.json where that was measured in the same way on this device;
    else measured, on questions whose video could be read, and written there."""
    path = run.folder / "cost.json"
    wanted = {"videos": sweep.cost_videos, "repeats": sweep.cost_repeats, "device": device_name(model.device)}
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if all(before["measured"][key] == value for key, value in wanted.items()):
            return before
    records = read_records(run.folder, run.questions)
    readable = [q for q, record in zip(run.questions, records, strict=True) if record["error"] is None]
    if not readable:
        raise ValueError(f"{run.folder}: no video could be read, so there is nothing to measure")
    cost = measure_cost(model, processor, readable, run.settings.video, sweep.cost_videos, sweep.cost_repeats)
    found = cost.to_dict() | {"measured": wanted}
    write_json(path, found)
    return found


def measure_cost(
    model: nn.Module,
    processor: Processor,
    questions: Sequence[Question],
    video: VideoConfig,
    videos: int = 4,
    repeats: int = 3,
) -> Cost:
    """Measure a model, as it prunes now, on the first question about each of the first few videos.

    video: which frames of each are shown; videos: how many; repeats: measured passes of each, after one that is
    not. Raises VideoError for a video that cannot be read.
    """
    first = list({question.video: question for question in reversed(questions)}.values())[::-1][:videos]
    seconds, tokens, frames, arithmetic = [], [], [], []
    with torch.no_grad():
        for batch in _batches(model, processor, first, video):
            model(**batch, logits_to_keep=1)
            passes = [_timed(model, batch) for _ in range(repeats)]
            seconds.append(min(duration for duration, _ in passes))
            placeholders = (batch["input_ids"] == model.host.token_id) & passes[0][1]
            tokens.append(placeholders.sum().item())
            frames.append(batch["layout"].frames_per_video[0] * processor.unit_frames)
            arithmetic.append(_arithmetic(model, batch))
    return Cost(fmean(seconds), fmean(tokens), fmean(frames), fmean(arithmetic))


def device_name(device: torch.device) -> str:
    """The device in words, a CPU with the threads that torch may use. Seconds of different devices cannot be
    compared."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {device.type}, {torch.get_num_threads()} threads"


def _batches(
    model: nn.Module, processor: Processor, questions: Sequence[Question], video: VideoConfig
) -> Iterator[dict[str, Any]]:
    collate = Collator(processor.pad_token_id, video_form=processor.video_form)
    for question in questions:
        clip = read_clip(question, video, processor.image_size)
        turn = {"role": "user", "content": question.text(clip.timestamps)}
        batch = collate([processor([turn], clip, add_generation_prompt=True)])
        if model.stts.policy == "given":
            scores = evidence_scores(seen_evidence(processor, question, clip))
            batch["window_scores"] = torch.from_numpy(scores)
        moved = {k: v.to(model.device) for k, v in batch.items() if isinstance(v, Tensor) and k != "labels"}
        yield moved | {"layout": batch["layout"]}


def _timed(model: nn.Module, batch: dict[str, Any]) -> tuple[float, Tensor]:
    """Seconds of one pass, and which input tokens survived it: (1, L) bool."""
    _wait(model.device)
    started = time.perf_counter()
    output = model(**batch, logits_to_keep=1)
    _wait(model.device)
    return time.perf_counter() - started, output.keep_mask


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _arithmetic(model: nn.Module, batch: dict[str, Any]) -> int:
    return ARITHMETIC.get(model.config.model_type, _any)(model, batch)


def _molmo2(model: nn.Module, batch: dict[str, Any]) -> int:
    frames, rows, cols = batch["video_grids"][0].tolist()
    text = batch["input_ids"].shape[1] - frames * (rows * cols + FRAME_MARKERS)
    ratio = model.stts.prune_ratio
    return multiply_adds(model.config, frames, ratio, text_tokens=text, text_per_frame=0, logits=1).total


def _qwen3_vl(model: nn.Module, batch: dict[str, Any]) -> int:
    units, *grid = batch["video_grid_thw"][0].tolist()
    windows = batch["layout"].num_windows
    text = batch["input_ids"].shape[1] - windows - units * flops_qwen3_vl.UNIT_MARKERS
    sizes = {"text_tokens": text, "text_per_unit": 0, "logits": 1}
    return flops_qwen3_vl.multiply_adds(model.config, units, grid, model.stts.prune_ratio, **sizes).total


def _any(model: nn.Module, batch: dict[str, Any]) -> int:
    host = model.host
    clips = clips_of(host, host.accept(batch), batch["layout"])
    (units,), (grid,), (windows,) = clips.frames, clips.grids, clips.windows
    text = batch["input_ids"].shape[1] - units * windows
    sizes = {"text_tokens": text, "text_per_unit": 0, "logits": 1}
    return flops_any.multiply_adds(host, model.stts, units, grid, model.stts.prune_ratio, **sizes).total


ARITHMETIC = {"molmo2": _molmo2, "qwen3_vl": _qwen3_vl}
"""By model_type: the multiply-adds of a batch of one video. Of others _any."""
