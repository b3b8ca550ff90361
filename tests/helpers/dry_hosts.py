"""What dry_run.py runs of every host: a training step of its tiny model; and memory of two as they were released."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers.masking_utils
from torch import Tensor, nn
from transformers.initialization import no_init_weights

import stts
from stts import STTSConfig
from stts.hosts.folders import ModelSpec
from stts.plan.models import ANSWER, Model, find_model
from stts.pruning.layout import BatchLayout
from stts.train.config import TrainConfig
from stts.train.trainer import Trainer
from tests.helpers.dry_cases import Batch, case, on_the_host, step
from tests.helpers.dry_memory import Memory
from tests.helpers.host_row import Row
from tests.helpers.hosts import rows

WAIT = {"smolvlm": 4, "idefics3": 4}
"""Hosts whose own code looks for frames of zeros in a batch, and how many of the first row are none."""


def row_batch(row: Row) -> Batch:
    """The videos of a row of the battery as a collator has them: pixels as bytes, and the layout."""
    waits = row.name in WAIT
    model, batch = row.pruned(), row.alone(0) if waits else row.batch(pad="right")
    batch |= {name: x.byte() for name, x in batch.items() if name.startswith("pixel_values")}
    clips = model.host.clips(model.host.accept(batch))
    tokens = [len(model.host.windows_of(t, w)) for t, w in zip(clips.frames, clips.windows, strict=True)]
    ids, mask = batch["input_ids"], batch["attention_mask"]
    layout = BatchLayout.read(row.placeholders(batch), mask, clips.frames, clips.grids, tokens)
    labels = ids.masked_fill((mask == 0) | (ids >= row.words), -100)
    return batch | {"layout": layout, "labels": labels, "ids": [str(n) for n in range(len(ids))]}


def of_row(row: Row, **settings: Any) -> nn.Module:
    """The tiny model of a host, made anew on the device."""
    plain = on_the_host(row.plain)()
    plain.config.stts = STTSConfig(**settings).to_dict()
    with torch.device("cuda"), no_init_weights():  # which reads them
        return stts.pruning(type(plain))._from_config(plain.config, attn_implementation="sdpa")


for row in rows():
    if row.name not in ("molmo2", "molmo2_described", "qwen3_vl", "gemma4"):
        for ratio in (0.5, 0.0):
            settings = {"prune_ratio": ratio}
            make, batches = functools.partial(of_row, row), lambda row=row: [row_batch(row)]
            case(f"host/{row.name}/{ratio}", make, batches, settings, reads=WAIT.get(row.name, 0))(step)


MEMORY = Memory()
PLANNED_FOR = (
    "OpenGVLab/InternVL3-1B-hf",
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
    "Qwen/Qwen3-VL-2B-Instruct",
)


def peak(path: str, frames: int, ratio: float, recompute: bool) -> None:
    """The peak of a step of a released model on one GPU, the first aside, in which an optimizer gets its moments."""
    model = on_the_host(find_model)(ModelSpec(path=path))
    batch = on_the_host(no_values)(model, frames)
    model.config.stts = STTSConfig(prune_ratio=ratio).to_dict()
    with MEMORY:
        with torch.device("cuda"), no_init_weights():
            made = model.family.pruning_class()._from_config(model.config, attn_implementation="sdpa")
            made.tie_weights()
        config = TrainConfig(max_steps=4, gradient_checkpointing=recompute)
        transformers.masking_utils._ignore_causal_mask_sdpa = lambda *args, **kwargs: (
            True
        )  # nothing is padded
        trainer = Trainer(made, None, config, Path(tempfile.mkdtemp()))
        for _ in range(2):
            MEMORY.start()
            trainer.step([batch])


def no_values(model: Model, frames: int) -> Batch:
    """A batch of one video, on the host, of zeros."""
    batch = model.batch(model.shape(frames, (360, 640)), 1)
    batch = {
        k: torch.zeros(x.shape, dtype=x.dtype) if isinstance(x, Tensor) and x.is_meta else x
        for k, x in batch.items()
    }
    batch["labels"].fill_(-100)[:, 1 : ANSWER + 1] = 1
    return batch | {"ids": ["0"]}


for path in PLANNED_FOR:
    for ratio in (0.5, 0.0):
        for again in (False, True):
            name = f"memory/{path}/{ratio}{'/recomputed' if again else ''}"
            case(name, path, 32, ratio, again)(peak)
