"""What is counted is what runs: held against torch's own counter on the tiny models of the battery."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from stts import STTSConfig
from stts.hosts import flops_qwen3_vl
from stts.hosts.flops_any import arithmetic_of, limit, multiply_adds, squares
from tests.helpers.hosts import rows

COUNTED = [row for row in rows() if not row.name.startswith("molmo2")]
ROUGHLY = ("qwen3_5", "gemma4")
"""Torch's gated delta nets run in chunks; Gemma 4 pools by a product, and has embeddings for every layer."""

hosts = pytest.mark.parametrize("row", COUNTED, ids=lambda row: row.name)


def counted(model, inputs) -> int:
    """Multiply-adds of a pass, attention as plain products."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(**inputs)
    return counter.get_total_flops() // 2


@hosts
def test_an_unpruned_pass_costs_what_torch_counts(row):
    model, inputs = row.pruned(prune_ratio=0.0), row.alone(0)
    host, stts = model.host, STTSConfig().for_windows(row.unit)
    clips = host.clips(host.accept(inputs))
    (units,), (grid,), (windows,) = clips.frames, clips.grids, clips.windows
    length = inputs["input_ids"].shape[1]
    cost = multiply_adds(host, stts, units, grid, text_tokens=length - units * windows, text_per_unit=0)
    parts = arithmetic_of(host, stts)
    # torch counts all pairs of the LLM, we those that a causal mask lets through
    hidden = sum(length * (length - 1) * layer.width for layer in parts.llm)
    found, wanted = cost.total + hidden, counted(model, inputs)
    if row.name in ROUGHLY:
        assert found == pytest.approx(wanted, rel=0.1)
    else:
        assert found == wanted


@hosts
def test_a_pruned_pass_costs_less_in_vit_adapter_and_llm(row):
    model, inputs = row.pruned(prune_ratio=0.0), row.alone(0)
    host, stts = model.host, STTSConfig().for_windows(row.unit)
    clips = host.clips(host.accept(inputs))
    whole = multiply_adds(host, stts, 64, clips.grids[0])
    half = multiply_adds(host, stts, 64, clips.grids[0], 0.5)
    behind = multiply_adds(host, stts.replace(policy="evs"), 64, clips.grids[0], 0.5)
    assert half.vision < whole.vision == behind.vision
    assert half.llm == behind.llm < whole.llm
    assert half.scorer > 0 == behind.scorer
    assert limit(host, stts, 64, clips.grids[0], 0.8) > limit(host, stts, 64, clips.grids[0], 0.5)


def test_of_qwen3_vl_it_is_what_its_own_file_says():
    (row,) = [row for row in rows() if row.name == "qwen3_vl"]
    model = row.pruned()
    host, stts = model.host, model.stts
    sizes = {"text_tokens": 30, "logits": 1}
    ours = multiply_adds(host, stts, 8, (8, 12), text_per_unit=10, **sizes)
    theirs = flops_qwen3_vl.multiply_adds(model.config, 8, (8, 12), text_per_unit=8, **sizes)
    assert ours == theirs
    ours = multiply_adds(host, stts, 8, (8, 12), 0.5, text_per_unit=10, **sizes)
    theirs = flops_qwen3_vl.multiply_adds(model.config, 8, (8, 12), 0.5, text_per_unit=8, **sizes)
    assert ours.vision == pytest.approx(theirs.vision, rel=1e-5)
    assert (ours.llm, ours.scorer) == (theirs.llm, theirs.scorer)


def test_a_line_in_pieces():
    assert squares(10, 4) == 16 + 16 + 4
    assert squares(8, 8) == 64
