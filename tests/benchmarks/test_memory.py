"""What a training step keeps for its backward pass, counted: deterministic where peak memory is not."""

from __future__ import annotations

import importlib
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from stts import STTSConfig, STTSMolmo2ForConditionalGeneration
from stts.pruning.attention import install
from tests.helpers.goldens import encode
from tests.helpers.molmo2 import tiny_config
from tests.helpers.paths import ROOT


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("memory")


def test_half_of_the_windows_need_at_most_six_tenths_at_128_frames_of_molmo2_4b(
    memory: ModuleType, tmp_path: Path
) -> None:
    path = memory.main(["--frames", "128", "--output", str(tmp_path)])
    unpruned, half, fifth = json.loads(path.read_text())["rows"]
    assert unpruned["share"] == 1
    assert half["saved_bytes"] <= 0.6 * unpruned["saved_bytes"]
    assert fifth["saved_bytes"] <= 0.35 * unpruned["saved_bytes"]
    assert path.with_suffix(".png").stat().st_size > 0


def test_the_count_is_that_of_a_run_by_hand(memory: ModuleType) -> None:
    """Two layers of known size on the meta device: one saves its input, one its output."""

    class Two(torch.nn.Module):
        stts = None

        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(8, 16, device="meta")

        def forward(self, x: Tensor, use_cache: bool) -> Two:
            self.loss = self.inner(x * 2).sigmoid().sum()
            return self

    x = torch.randn(4, 8, device="meta")
    assert memory.count(Two(), {"x": x}, STTSConfig()) == 4 * (4 * 8 + 4 * 16)


def tower(blocks: int) -> torch.nn.Module:
    torch.manual_seed(0)
    config = tiny_config(grid=9, blocks=blocks, feature_layers=(blocks - 1, 4))
    found = STTSMolmo2ForConditionalGeneration(config).model.vision_tower
    install(found.config)
    return found


def saved_by(blocks: int, ratio: float) -> int:
    vit, sizes, held = tower(blocks), {}, []

    def see(x: Tensor) -> Tensor:
        held.append(x)
        sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(see, lambda x: x):
        stts = STTSConfig(prune_ratio=ratio)
        encode(vit, torch.randn(8, 81, 48), stts, (8,), [5])
    known = {p.untyped_storage().data_ptr() for p in vit.parameters()}
    return sum(size for place, size in sizes.items() if place not in known)


def test_activations_after_the_biased_block_shrink_with_the_ratio() -> None:
    later = {ratio: saved_by(9, ratio) - saved_by(6, ratio) for ratio in (0.5, 0.75)}
    assert later[0.75] == pytest.approx(later[0.5] / 2, rel=0.02)


@torch.no_grad()
def test_features_are_kept_only_of_the_blocks_that_are_asked_for() -> None:
    vit = tower(9)
    outputs: dict[int, weakref.ref] = {}
    alive: list[set[int]] = []

    def watch(i: int) -> Callable:
        def hook(module: torch.nn.Module, args: tuple, output: Tensor) -> None:
            outputs[i] = weakref.ref(output)
            alive.append({n for n, out in outputs.items() if out() is not None})

        return hook

    for i, block in enumerate(vit.layers):
        block.register_forward_hook(watch(i))
    out = encode(vit, torch.randn(4, 81, 48), STTSConfig(), (4,), [2, 7])
    assert sorted(out.hidden_states) == [2, 7]
    for last, seen in enumerate(alive):  # asked for, scored, the last one and the one it was made of
        assert seen <= {2, 3, 7, last - 1, last}
