"""Between the start of forward and the loss the host never waits for the device, whatever policy and layout."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from stts import STTSConfig, STTSMolmo2ForConditionalGeneration, pruning
from stts.data.feed.tensors import each_tensor
from stts.hosts.llm_attention import BLOCK_SPARSE
from stts.pruning.config import POLICIES
from stts.pruning.layout import BatchLayout
from stts.pruning.selection import num_dropped
from tests.helpers.hosts import rows
from tests.helpers.molmo2 import make_inputs, tiny_config

DROPPING = [
    policy for policy in POLICIES if policy != "none"
]  # without pruning transformers' own forward runs

ROW = rows()[0]
"""Qwen3-VL."""
TAUGHT = {"relevance_weight": 1.0, "novelty_power": 2.0, "novelty_since": 0.3}
"""What the task teaches must not be waited for, either; only the scorer heeds it."""


def build(device: str, llm_attention: str = "sdpa", **stts: Any) -> STTSMolmo2ForConditionalGeneration:
    config = tiny_config()
    config.text_config.head_dim = 16  # flex attention has no kernel for fewer channels
    config.stts = STTSConfig(attention="varlen", **stts).to_dict()
    options = {"dtype": torch.bfloat16, "attn_implementation": llm_attention}
    return STTSMolmo2ForConditionalGeneration._from_config(config, **options).to(device).train()


def batch(rows: list[list[int]], packed: bool, device: str) -> dict[str, Any]:
    """As the collator hands it over; packed: each video of a row is an example of its own."""
    inputs = make_inputs(rows)
    inputs["labels"] = inputs["input_ids"].masked_fill(inputs["mm_token_type_ids"] == 1, -100)
    videos = [(row, frames) for row, clips in enumerate(rows) for frames in clips]
    lengths = inputs["attention_mask"].sum(1).tolist()
    layout = BatchLayout(tuple(t for _, t in videos), tuple(lengths), tuple(row for row, _ in videos))
    if packed:
        ids, positions = halves(inputs["attention_mask"])
        inputs |= {"sequence_ids": ids, "position_ids": positions}
    return {name: x.to(device) for name, x in inputs.items()} | {"layout": layout}


def halves(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Sequence ids and positions of rows whose second half is another example."""
    half = mask.sum(1, keepdim=True) // 2
    place = torch.arange(mask.shape[1]).expand_as(mask)
    ids = (place >= half).long().masked_fill(mask == 0, -1)
    return ids, torch.where(place >= half, place - half, place).masked_fill(mask == 0, 0)


@pytest.fixture
def _meta_has_no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())


@pytest.mark.usefixtures("_meta_has_no_autocast")
@pytest.mark.parametrize("policy", DROPPING)
@pytest.mark.parametrize("packed", [False, True])
def test_a_device_that_holds_no_values_is_enough(policy: str, packed: bool) -> None:
    """Tensors of the meta device have shapes alone: whatever asks for a value of one fails."""
    model, inputs = build("meta", policy=policy, **TAUGHT), batch([[4], [7]], packed, "meta")
    if policy == "given":
        inputs["window_scores"] = torch.empty(11, 4, device="meta")
    out = model(**inputs, use_cache=False)
    out.loss.backward()
    assert out.logits.shape == (2, max(inputs["layout"].lengths) - 14, 48)  # of 28 windows
    assert model.model.vision_tower.patch_embedding.weight.grad is not None
    with pytest.raises(RuntimeError, match="meta"):
        out.loss.item()


def test_heads_are_wide_enough_for_the_kernels_of_a_gpu() -> None:
    config = build("meta", BLOCK_SPARSE).config
    assert min(config.text_config.head_dim, config.vision_config.head_dim) >= 16


@pytest.mark.usefixtures("_meta_has_no_autocast")
@pytest.mark.parametrize("packed", [False, True])
def test_nor_do_unpruned_runs_ask_for_values(packed: bool) -> None:
    """What speed-ups are measured against."""
    model, inputs = build("meta", prune_ratio=0), batch([[4], [7]], packed, "meta")
    inputs["num_targets"] = 9
    out = model(**inputs, use_cache=False)
    out.loss.backward()
    assert out.logits.shape == (1, 10, 48)


# --- Qwen3-VL


def qwen3_vl(device: str, pad: str, attention: str = "sdpa", **stts: Any) -> tuple[PreTrainedModel, dict]:
    """The model and a batch of videos of mixed grids, as the collator hands it over; pad "": rows as long as each
    other."""
    plain = ROW.plain()
    plain.config.stts = STTSConfig(attention="varlen", **stts).to_dict()
    options = {"dtype": torch.bfloat16, "attn_implementation": attention}
    model = pruning(type(plain))._from_config(plain.config, **options).to(device).train()
    videos = ROW.videos if pad else [ROW.videos[1]] * 2
    inputs = ROW.inputs(videos, numbers=None if pad else [1, 1], pad=pad or "left")
    inputs["labels"] = inputs["input_ids"].masked_fill(inputs["mm_token_type_ids"] == 2, -100)
    sizes = [(row, size) for row, of_row in enumerate(videos) for size in of_row]
    layout = BatchLayout(
        frames_per_video=tuple(t for _, (t, _, _) in sizes),
        lengths=tuple(inputs["attention_mask"].sum(1).tolist()),
        video_rows=tuple(row for row, _ in sizes),
        grids=tuple((h, w) for _, (_, h, w) in sizes),
    )
    if stts.get("policy") == "given":
        inputs["window_scores"] = [torch.rand(t, h * w // 4) for _, (t, h, w) in sizes]
    return model, each_tensor(inputs, lambda x: x.to(device)) | {"layout": layout}


@pytest.mark.usefixtures("_meta_has_no_autocast")
@pytest.mark.parametrize("pad", ["", "left", "right"])
@pytest.mark.parametrize("policy", [*DROPPING, "none"])
def test_a_device_that_holds_no_values_is_enough_for_qwen3_vl(policy: str, pad: str) -> None:
    """Deepstack and placeholders included; "none": without pruning."""
    settings = {"prune_ratio": 0.0} if policy == "none" else {"policy": policy}
    model, inputs = qwen3_vl("meta", pad, **settings)
    out = model(**inputs, use_cache=False)
    out.loss.backward()
    drops = [
        0 if policy == "none" else num_dropped(t, h * w // 4, 0.5)
        for t, (h, w) in zip(inputs["layout"].frames_per_video, inputs["layout"].grids, strict=True)
    ]
    lengths = list(inputs["layout"].lengths)
    for row, drop in zip(inputs["layout"].video_rows, drops, strict=True):
        lengths[row] -= drop
    assert out.logits.shape[:2] == (2, max(lengths) if any(drops) else inputs["input_ids"].shape[1])
    assert model.model.visual.patch_embed.proj.weight.grad is not None


@pytest.mark.gpu
@pytest.mark.parametrize("pad", ["", "right"])
@pytest.mark.parametrize("policy", [*DROPPING, "none"])
def test_cuda_reports_no_synchronisation_of_qwen3_vl(policy: str, pad: str) -> None:
    settings = {"prune_ratio": 0.0} if policy == "none" else {"policy": policy}
    model, inputs = qwen3_vl("cuda", pad, **settings)
    for mode in ("default", "error"):
        torch.cuda.set_sync_debug_mode(mode)
        try:
            out = model(**inputs, use_cache=False)
            out.loss.backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert out.loss.isfinite()


# --- Molmo2 on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("policy", DROPPING)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("llm_attention", ["sdpa", BLOCK_SPARSE])
def test_cuda_reports_no_synchronisation(policy: str, packed: bool, llm_attention: str) -> None:
    model = build("cuda", llm_attention, policy=policy, **TAUGHT)
    inputs = batch([[4], [7]], packed, "cuda")
    if policy == "given":
        inputs["window_scores"] = torch.rand(11, 4, device="cuda")
    for mode in ("default", "error"):  # the first pass compiles and fills caches
        torch.cuda.set_sync_debug_mode(mode)
        try:
            out = model(**inputs, use_cache=False)
            out.loss.backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert out.loss.isfinite()
