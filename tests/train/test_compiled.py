from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from torch.nn import functional as F

import stts.pruning.attention
import stts.train.prepare
from stts import STTSConfig
from stts.data import Collator, VideoQADataset
from stts.hosts.folders import ModelSpec
from stts.hosts.load import load_model
from stts.train.compiled import compile_layers
from stts.train.loop import TrainConfig, train
from stts.train.tracking import Tracker

pytestmark = pytest.mark.slow


def start(folder: Path, clips: Path, **stts):
    torch.manual_seed(0)
    model, processor = load_model(ModelSpec(str(folder)), STTSConfig(**stts))
    return model, processor, VideoQADataset(clips / "train.jsonl", None, processor, frames=4)


def masked(query, key, value, packing, scaling):
    """What the varlen kernel of a GPU computes, without asking for a length: a stand-in that can be traced."""
    places = torch.arange(query.shape[1], device=query.device)
    segment = torch.searchsorted(packing.cu_seqlens[1:].long(), places, right=True)
    mask = (segment[:, None] == segment)[None, None]
    return F.scaled_dot_product_attention(query[None], key[None], value[None], attn_mask=mask, scale=scaling)[
        0
    ]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def test_layers_compile_whole_and_a_handful_of_times_for_batches_of_any_size(tiny_folder, clips, monkeypatch):
    monkeypatch.setitem(stts.pruning.attention._BACKENDS, "varlen", masked)
    monkeypatch.setattr(stts.pruning.attention, "HALF_ALONE", ())
    model, _, dataset = start(tiny_folder, clips, attention="varlen")
    batches = []
    for frames, size in ((4, 1), (3, 2), (5, 3)):
        dataset.frames = frames
        batches.append(Collator(0)([dataset[i] for i in range(size)]))
        del batches[-1]["ids"]
    model.train()
    expected = [model(**batch, use_cache=False).loss.item() for batch in batches]
    compiler = CompileCounterWithBackend("eager")
    compile_layers(model, compiler)
    compiled_by_then = []
    for batch, loss in zip(batches, expected, strict=True):
        found = model(**batch, use_cache=False).loss
        found.backward()
        assert found.item() == pytest.approx(loss, rel=1e-5)
        compiled_by_then.append(compiler.frame_count)
    assert sum(counters["graph_break"].values()) == 0
    # dense, biased and ragged ViT blocks, LLM layers; once more for batches of more than one row
    assert compiled_by_then[0] >= 4
    assert compiled_by_then[1] == compiled_by_then[-1] <= 10


def test_a_compiled_run_learns_the_same_and_saves_under_the_same_names(
    tiny_folder, clips, tmp_path, monkeypatch
):
    monkeypatch.setitem(stts.pruning.attention._BACKENDS, "varlen", masked)
    monkeypatch.setattr(stts.pruning.attention, "HALF_ALONE", ())
    monkeypatch.setattr(Tracker, "draw_curves", lambda *args, **kwargs: None)
    compiler = CompileCounterWithBackend("eager")
    monkeypatch.setattr(
        stts.train.prepare, "compile_layers", functools.partial(compile_layers, backend=compiler)
    )
    rows, names = [], []
    for compiled in (False, True):
        config = TrainConfig(
            max_steps=1, batch_size=2, num_workers=0, gradient_checkpointing=True, compile=compiled
        )
        output_dir = tmp_path / str(compiled)
        taught = {"relevance_weight": 1.0, "novelty_power": 2.0}
        train(*start(tiny_folder, clips, attention="varlen", **taught), config, output_dir)
        rows.append([json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()])
        names.append(start(output_dir / "model", clips)[0].state_dict().keys())
        assert bool(compiler.frame_count) == compiled
    assert names[0] == names[1]
    for plain, compiled in zip(*rows, strict=True):
        for key in ("loss", "grad_norm", "kept", "relevance_mean"):
            assert compiled[key] == pytest.approx(plain[key], rel=1e-4), key
