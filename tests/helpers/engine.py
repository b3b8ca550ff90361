"""vLLM in this process, asked the same as stts: settings that every test of it needs, and both sides' replies."""

from __future__ import annotations

import os

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

import gc
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory

from stts.chat import load, prompt_inputs
from stts.data import Clip, read_video
from stts.data.prompts import multiple_choice_prompt

LEAST = -30.0
"""Log-probabilities below this are not compared: they differ by rounding alone."""


@dataclass(frozen=True)
class Asked:
    """A question about a clip."""

    clip: Clip
    question: str
    options: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return multiple_choice_prompt(self.question, self.options) if self.options else self.question


@dataclass(frozen=True)
class Reply:
    tokens: list[int]
    logprobs: list[dict[int, float]]
    """Of each new token, the likeliest ones."""


def questions(data: Path, count: int, frames: int = 32, size: int = 72) -> list[Asked]:
    """The first test questions of generated clips."""
    rows = [json.loads(line) for line in (data / "test.jsonl").read_text().splitlines()[:count]]
    clips = {row["video"]: None for row in rows}
    clips = {video: read_video(data / video, frames, size=size) for video in clips}
    return [Asked(clips[row["video"]], row["question"], tuple(row["options"])) for row in rows]


@torch.no_grad()
def our_replies(
    folder: Path,
    asked: Sequence[Asked],
    new_tokens: int = 8,
    least: int = 0,
    dtype: torch.dtype = torch.float32,
    **settings: Any,
) -> list[Reply]:
    """What stts says, `least` tokens or more."""
    model, processor = load(folder, device="cpu", **settings)
    model, replies = model.to(dtype), []
    for one in asked:
        inputs = prompt_inputs(processor, one.question, one.clip, one.options)
        out = model.generate(
            **inputs,
            max_new_tokens=new_tokens,
            min_new_tokens=least,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        tokens = out.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        likely = [logits[0].float().log_softmax(-1) for logits in out.logits]
        replies.append(Reply(tokens, [dict(enumerate(x.tolist())) for x in likely]))
    return replies


@contextmanager
def engine(folder: Path, **options: Any) -> Iterator[LLM]:
    """vLLM with a folder, taken down afterwards."""
    defaults = {"dtype": "float32", "max_model_len": 2048, "max_num_batched_tokens": 4096, "max_num_seqs": 8}
    llm = LLM(str(folder), **defaults | {"enforce_eager": True, "max_logprobs": 20} | options)
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        cleanup_dist_env_and_memory()
        gc.collect()


def prompts(folder: Path, asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """Questions as vLLM takes them, all in one batch."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    made = []
    for one in asked:
        content = [{"type": "video"}, {"type": "text", "text": one.text}]
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        metadata = {"timestamps": one.clip.timestamps.tolist(), "do_sample_frames": False}
        made.append({"prompt": text, "multi_modal_data": {"video": (one.clip.frames, metadata)}})
    return made


def their_replies(
    llm: LLM, folder: Path, asked: Sequence[Asked], new_tokens: int = 8, least: int = 0
) -> list[Reply]:
    """What vLLM says."""
    params = SamplingParams(temperature=0, max_tokens=new_tokens, min_tokens=least, logprobs=20)
    outs = llm.generate(prompts(folder, asked), params, use_tqdm=False)
    return [
        Reply(
            list(out.outputs[0].token_ids),
            [{token: x.logprob for token, x in step.items()} for step in out.outputs[0].logprobs],
        )
        for out in outs
    ]


def difference(ours: Sequence[Reply], theirs: Sequence[Reply]) -> tuple[int, float]:
    """How many replies are equal, token by token, and the largest difference of log-probabilities up to the first
    token that is not."""
    equal, worst = 0, 0.0
    for one, other in zip(ours, theirs, strict=True):
        equal += one.tokens == other.tokens
        for i, (mine, likely) in enumerate(zip(one.logprobs, other.logprobs, strict=False)):
            if one.tokens[:i] != other.tokens[:i]:
                break
            worst = max(worst, *(abs(mine[t] - x) for t, x in likely.items() if x > LEAST))
    return equal, worst
