"""Every benchmark runs at its smallest size and leaves a file that says what was measured where."""

from __future__ import annotations

import gc
import importlib
import json
import math
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

from stts import STTSConfig
from stts.pruning.selection import num_dropped
from tests.helpers.paths import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(autouse=True)
def _what_is_there_already_is_no_garbage():
    """Every timing collects garbage first; what other tests have made is not looked through each time."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _threads_are_put_back():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script with its folder on the path, as Python puts it there when it runs one."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


def run(name: str, arguments: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    path = load(name, monkeypatch).main([*arguments.split(), "--output", str(folder)])
    assert path.parent == folder
    results = json.loads(path.read_text(), parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    assert results["machine"]["versions"]["torch"] == torch.__version__
    assert results["machine"]["threads"] == 1
    assert results["machine"]["cpu"]
    for row in results["rows"]:
        assert row["seconds"] > 0
        assert len(row["repeats"]) == results["settings"]["repeats"]
    return results


def test_every_preset_has_heads_that_the_kernels_of_a_gpu_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """flex attention, the LLM's on CUDA, needs 16 channels."""
    presets = load("presets", monkeypatch)
    for name in presets.PRESETS:
        assert presets.preset_config(name, STTSConfig()).text_config.head_dim >= 16


@pytest.mark.parametrize("mode", ["prefill", "train", "vit", "generate"])
def test_speed(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = (2, 3) if mode == "prefill" else (3,)
    arguments = f"--mode {mode} --frames {' '.join(map(str, frames))} --ratios 0.5 --repeats 1 --device cpu"
    results = run("speed", arguments, tmp_path, monkeypatch)
    rows = results["rows"]
    variants = ["unpruned", "pruned", *(["after-vit"] if mode != "vit" else []), "tome"]
    assert [(row["frames"], row["variant"]) for row in rows] == [(n, v) for n in frames for v in variants]
    assert [row["speedup"] for row in rows if row["variant"] == "unpruned"] == [1] * len(frames)
    for row in rows:
        if mode == "generate":
            assert row["limit"] is None
        elif row["variant"] == "pruned":
            assert row["limit"] > 1
            assert math.isclose(row["share_of_limit"], row["speedup"] / row["limit"], rel_tol=1e-3)
        low, high = row["speedup_range"]
        assert low - 1e-3 <= row["speedup"] <= high + 1e-3  # one turn
    assert (tmp_path / f"speed-tiny-{mode}-cpu.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("mode", ["prefill", "train", "generate"])
def test_speed_of_another_family(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = f"--preset qwen3-vl-tiny --mode {mode} --frames 4 --ratios 0.5 --repeats 1 --device cpu"
    rows = run("speed", arguments, tmp_path, monkeypatch)["rows"]
    assert [row["variant"] for row in rows] == ["unpruned", "pruned", "after-vit", "tome"]
    limits = {row["variant"]: row["limit"] for row in rows}
    if mode == "generate":
        assert set(limits.values()) == {None}
    else:
        assert limits["pruned"] > limits["after-vit"] > limits["unpruned"] == 1


def test_all_ways_keep_the_same_number_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    presets, speed = load("presets", monkeypatch), load("speed", monkeypatch)
    config = presets.preset_config("tiny", STTSConfig())
    model = presets.build_model(config, "cpu", torch.float32).eval()
    inputs, seen = presets.make_inputs(config, 4, "cpu"), {}

    def look(model, inputs):
        with torch.no_grad():
            out = model(**inputs)
        keep = out.keep_windows
        seen[model.stts.policy] = (
            out.logits.shape,
            None if keep is None else int(keep.numel() - keep.sum()),
        )

    monkeypatch.setattr(speed, "prefill", look)
    for way, ratio in (speed.UNPRUNED, *((way, 0.6) for way in speed.POLICY_OF)):
        speed.make_step(model, inputs, "prefill", way, ratio)()
    assert {policy: dropped for policy, (_, dropped) in seen.items()} == dict.fromkeys(
        ("scorer", "evs", "tome"), num_dropped(4, 9, 0.6)
    )
    assert len({shape for shape, _ in seen.values()}) == 1


def test_what_does_not_fit_into_memory_has_a_row_without_times(monkeypatch: pytest.MonkeyPatch) -> None:
    speed = load("speed", monkeypatch)
    args = speed.parse(["--frames", "3", "--ratios", "0.5", "--variants", "pruned", "--repeats", "1"])
    args.device, args.dtype, args.llm_attention = "cpu", "float32", "sdpa"
    model = speed.make_model(args)

    def prefill(model, inputs):
        if not model.stts.prune_ratio:
            raise torch.OutOfMemoryError("unpruned is too large")
        with torch.no_grad():
            model(**inputs)

    monkeypatch.setattr(speed, "prefill", prefill)
    unpruned, pruned = speed.measure_frames(model, 3, args)
    assert unpruned["peak_bytes"] == "out of memory"
    assert "seconds" not in unpruned
    assert pruned["seconds"] > 0
    assert "speedup" not in pruned
    speed.report([unpruned, pruned], args)


def test_unknown_preset_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"'huge'.*molmo2_4b"):
        load("presets", monkeypatch).preset_config("huge", STTSConfig())


@pytest.mark.parametrize(("name", "layers"), [("molmo2_4b", 36), ("molmo2_8b", 36), ("cpu-mid", 8)])
def test_presets_are_the_sizes_they_say(name: str, layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    presets = load("presets", monkeypatch)
    config = presets.preset_config(name, STTSConfig())
    assert config.text_config.num_hidden_layers == layers
    inputs = presets.make_inputs(config, 2, "cpu")
    assert inputs["pixel_values_videos"].shape == (2, 729, 588)
    assert (inputs["input_ids"] == config.image_token_id).sum() == 2 * 81


def test_breakdown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--frames", "3", "--device", "cpu", "--repeats", "1", "--output", str(tmp_path)]
    script = load("breakdown", monkeypatch)
    unpruned, half, _ = json.loads(script.main(arguments).read_text())["rows"]
    for row in (unpruned, half):
        assert sum(row[part] for part in script.PARTS) == pytest.approx(row["total"], abs=2e-5)
    assert unpruned["ragged blocks"] == unpruned["scorer"] == unpruned["overhead_share"] == 0
    assert unpruned["adapter"] > 0
    for part in ("scorer", "select", "biased block", "plan and gather", "ragged blocks", "adapter", "LLM"):
        assert half[part] > 0
    assert (tmp_path / "breakdown-tiny-cpu.png").is_file()


def test_timing_parts_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    presets, script = load("presets", monkeypatch), load("breakdown", monkeypatch)
    model = presets.build_model(presets.preset_config("tiny", STTSConfig()), "cpu", torch.float32)
    before = [(owner, name, owner.__dict__.get(name)) for owner, name, _ in script.find_parts(model)]
    with script.timed_parts(model, {}):
        assert "forward" in model.lm_head.__dict__
    for owner, name, value in before:
        assert owner.__dict__.get(name) is value


def test_packing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = run("packing", "--frames 4 --ratios 0.5 --dim 8 --repeats 2", tmp_path, monkeypatch)
    bins = {row["bins"] for row in results["rows"]} - {None}
    assert len(bins) == 1
    assert 2 <= bins.pop() <= 4  # half of four frames, the first of them whole
    assert (tmp_path / "packing-cpu.png").is_file()


def test_aux_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = run("aux_loss", "--frames 3 --dim 4 --repeats 2", tmp_path, monkeypatch)
    assert [row["loss"] for row in results["rows"]] == ["ours", "all pairs"]
    assert (tmp_path / "aux_loss-cpu.png").is_file()


def test_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = "--frames 3 --seconds 2 --height 32 --width 64 --size 28 --keyframes 6 --repeats 1"
    rows = run("decode", arguments, tmp_path, monkeypatch)["rows"]
    assert rows[0]["backend"] == "pyav"
    assert {row["frames"] for row in rows} == {3}
    assert (tmp_path / "decode-cpu.png").is_file()


def test_the_figure_marks_the_paper_only_where_it_reaches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure, figures = load("speed_figure", monkeypatch), load("figures", monkeypatch)
    drawn = []
    monkeypatch.setattr(
        figures.plt, "close", lambda f: drawn.append(f.axes[0].get_legend_handles_labels()[1])
    )
    row = {"variant": "pruned", "ratio": 0.5, "speedup": 1.9, "limit": 2.0}
    for frames in ([64, 100], [64, 128]):
        results = {
            "settings": {"mode": "train", "preset": "molmo2_4b"},
            "machine": {"gpu": "some GPU"},
            "rows": [{**row, "frames": n} for n in frames],
        }
        path = tmp_path / "results.json"
        path.write_text(json.dumps(results))
        figure.draw(path)
    assert [any("paper" in label for label in labels) for labels in drawn] == [False, True]


def test_the_planner_of_bins_takes_less_than_a_millisecond_for_384_frames(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packing = load("packing", monkeypatch)
    for ratio in (0.3, 0.5, 0.8):
        lengths = packing.random_keep(384, ratio, "cpu").sum(1).tolist()
        times = []
        for _ in range(30):
            start = time.thread_time()
            packing.plan_bins(lengths, 729)
            times.append(time.thread_time() - start)
        assert min(times) < 1e-3  # the least: other load of the machine only adds


def test_peak_memory_sees_what_is_held_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    common = load("common", monkeypatch)
    size = 64 * 2**20
    peak = common.peak_memory(lambda: torch.zeros(size // 4).max())
    if peak is None:
        pytest.skip("the system does not tell")
    assert 0.9 * size < peak < 1.6 * size


def test_runs_take_turns_and_the_median_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    common = load("common", monkeypatch)
    order, times = [], iter([(9.0, 1.0), (1.0, 1.0), (2.0, 3.0), (5.0, 2.0), (3.0, 5.0), (4.0, 4.0)])
    monkeypatch.setattr(common, "_time_once", lambda step, device: (step(), next(times))[1])
    steps = {name: (lambda name=name: order.append(name)) for name in "ab"}
    timings = common.measure(steps, repeats=3, warmup=1)
    assert order == list("abababab")
    assert timings["a"].repeats == [9.0, 2.0, 3.0]
    assert (timings["a"].seconds, timings["a"].wall) == (3.0, 3.0)
    assert timings["b"].seconds == 4.0
