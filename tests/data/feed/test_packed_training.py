"""Training on packed rows, mixtures and data with holes: the same loss as unpacked, and exact going on."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stts import STTSConfig
from stts.data import Collator, DataSpec, Mixture, VideoQADataset, training_data
from stts.data.feed.account import BadDataError
from stts.data.feed.order import Order, Place
from stts.files.durable import read_rows
from stts.hosts.folders import ModelSpec
from stts.hosts.load import load_model
from stts.train.loop import Interrupted, train
from stts.train.optim import lr_factor, set_lr
from stts.train.run_folder import newest_checkpoint
from stts.train.trainer import Trainer
from tests.helpers.runs import Calls, config, rows, weights

PACKED = {"batch_size": 1, "max_tokens": 480, "max_frames": 10, "pack_buffer": 4, "loss_weight": "example"}


@pytest.fixture
def holes(clips: Path, tmp_path: Path) -> Path:
    """The clips again under other ids, of which the second is no video and the last cannot be found."""
    folder = tmp_path / "holes"
    folder.mkdir()
    (folder / "broken.mp4").write_text("no video")
    (folder / "videos").symlink_to(clips / "videos")
    lines = [json.loads(line) for line in (clips / "train.jsonl").read_text().splitlines()]
    lines[1]["video"], lines[-1]["video"] = "broken.mp4", "gone.mp4"
    for i, line in enumerate(lines):
        line["messages"] = line["messages"][: 2 * (i % 3 + 1)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "videos").unlink()
    for line in lines:
        source = clips / line["video"]
        if source.exists():
            (folder / line["video"]).parent.mkdir(exist_ok=True)
            (folder / line["video"]).write_bytes(source.read_bytes())
    return folder


@pytest.fixture
def setup(tiny_folder: Path, clips: Path, holes: Path):
    """setup() -> a tiny model with the same weights every time, its processor, a mixture with holes."""

    def make(max_bad_fraction: float = 0.2, frames: int = 4):
        torch.manual_seed(0)
        model, processor = load_model(ModelSpec(str(tiny_folder)), STTSConfig())
        parts = {
            "whole": VideoQADataset(clips / "train.jsonl", None, processor, frames, decode_timeout=60),
            "holes": VideoQADataset(holes / "rows.jsonl", None, processor, frames - 1, decode_timeout=60),
        }
        return model, processor, Mixture(parts, {"whole": 1.0, "holes": 3.0}, max_bad_fraction)

    return make


@pytest.mark.slow
def test_a_killed_run_on_packed_rows_of_a_mixture_with_holes_goes_on_bit_for_bit(setup, tmp_path):
    train(*setup(), config(**PACKED), tmp_path / "straight")

    class Killed(BaseException):
        pass

    model, processor, data = setup()
    calls = iter(range(1, 100))

    class Dying(Mixture):
        def __getitem__(self, index):
            if next(calls) == 14:  # some of what was read waits for a row, some is bad
                raise Killed
            return super().__getitem__(index)

    data.__class__ = Dying
    with pytest.raises(Killed):
        train(model, processor, data, config(**PACKED), tmp_path / "killed")
    stopped = len(rows(tmp_path / "killed"))
    assert 3 <= stopped < 6
    progress = json.loads((tmp_path / "killed/checkpoints/step-0000003/progress.json").read_text())
    (place,) = map(Place.from_dict, progress["places"])
    assert place.waiting
    assert place.bad

    train(*setup(), config(**PACKED, num_workers=1), tmp_path / "killed")
    assert rows(tmp_path / "killed") == rows(tmp_path / "straight")
    assert weights(tmp_path / "killed") == weights(tmp_path / "straight")
    found = rows(tmp_path / "straight")
    assert found[-1]["bad"] == 2
    assert max(row["examples"] for row in found) > 1
    assert all(0.5 < row["fill"] <= 1 for row in found)
    for name in ("straight", "killed"):
        log = read_rows(tmp_path / name / "left_out.jsonl")
        assert sorted(row["example"].split("rows.jsonl:")[1][0] for row in log) == ["2", "6"]
        assert all(row["what"] == "unreadable" for row in log)


def test_too_many_holes_stop_the_run_with_a_list(setup, tmp_path):
    with pytest.raises(BadDataError, match=r"2 of 12 examples cannot be read.*allows 1") as error:
        train(*setup(max_bad_fraction=0.1), config(batch_size=3, max_steps=20), tmp_path)
    assert "broken.mp4: is not a video" in str(error.value)
    assert "gone.mp4: no such file" in str(error.value)
    assert len(read_rows(tmp_path / "left_out.jsonl")) == 2


def example_losses(model, processor, examples) -> list[tuple[float, int]]:
    """(sum of the loss of its answer tokens, how many there are) of each example, one at a time, written out."""
    found = []
    for example in examples:
        batch = Collator(processor.pad_token_id)([example])
        out = model(**{key: value for key, value in batch.items() if key not in ("ids", "labels")})
        labels = batch["labels"][0][out.keep_mask[0]]
        logits = out.logits[0, : len(labels)].log_softmax(-1)
        losses = [-logits[i - 1, labels[i]] for i in range(1, len(labels)) if labels[i] >= 0]
        found.append((sum(losses).item(), len(losses)))
    return found


def answer_counts(batch) -> set[int]:
    """How many answer tokens the examples of a row have."""
    answers = batch["sequence_ids"][0][batch["labels"][0] >= 0]
    return set(answers.bincount().tolist())


@pytest.mark.parametrize("weight", ["token", "example"])
def test_packed_and_unpacked_batches_have_the_same_loss_and_gradient(setup, tmp_path, weight):
    model, processor, data = setup()
    settings = PACKED | {"loss_weight": weight, "max_grad_norm": 0}
    trainer = Trainer(model, processor, config(**settings), tmp_path)
    batches = trainer.batches(data)
    packed = next(batch for batch in batches if len(answer_counts(batch)) > 1)
    assert len(packed["input_ids"]) == 1
    by_id = {
        f"{name}/{row['id']}": (part, i)
        for name, part in zip(data.names, data.parts, strict=True)
        for i, row in enumerate(part.rows)
    }
    examples = [part[i] for part, i in map(by_id.get, packed["ids"])]
    unpacked = Collator(processor.pad_token_id, 0.5, loss_weight=weight)(examples)

    with torch.no_grad():
        losses = example_losses(model, processor, examples)
    if weight == "token":
        expected = sum(loss for loss, _ in losses) / sum(count for _, count in losses)
    else:
        expected = sum(loss / count for loss, count in losses) / len(losses)
    assert len({count for _, count in losses}) > 1

    results = []
    for batch in (packed, unpacked):
        gradient = {}
        trainer.optimizer.step = lambda gradient=gradient: gradient.update(
            {name: p.grad.clone() for name, p in trainer.plain_model.named_parameters()}
        )
        trainer.step([batch])
        results.append((trainer.read_metrics()[0], gradient))
    (row, gradient), (other, reference) = results
    assert row["lm_loss"] == pytest.approx(expected, rel=1e-4)
    assert other["lm_loss"] == pytest.approx(expected, rel=1e-4)
    for name in gradient:
        torch.testing.assert_close(gradient[name], reference[name], atol=2e-5, rtol=1e-3)
    batches.close()


def test_epochs_in_place_of_steps(setup, clips, tiny_folder, tmp_path):
    plain = config(batch_size=4, epochs=1.5, max_steps=200)
    assert plain.with_steps(12, 4).max_steps == math.ceil(1.5 * 12 / 4) == 5
    assert plain.with_steps(12, 8).max_steps == 3
    assert config(max_steps=7).with_steps(12, 4).max_steps == 7
    model, processor, _ = setup()
    data = VideoQADataset(clips / "train.jsonl", None, processor, 2)
    last = train(model, processor, data, config(batch_size=4, epochs=1.5, warmup_steps=0), tmp_path)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3]
    assert last.name == "step-0000003"
    end = set_lr(torch.optim.SGD([{"params": [torch.zeros(1)], "name": "llm"}]), 2, plain.with_steps(6, 4))
    assert rows(tmp_path)[-1]["lr_llm"] != end["llm"]  # that schedule began with a warm-up
    assert train(None, None, data, config(batch_size=4, epochs=1.5), tmp_path) == last  # finished already


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    starts=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 6)), min_size=1, max_size=5),
    batch_size=st.integers(1, 3),
    num_examples=st.integers(1, 40),
    epochs=st.floats(0.1, 3),
)
def test_epochs_end_when_they_are_trained_whoever_goes_on(starts, batch_size, num_examples, epochs):
    """starts: numbers of processes, and the steps after which each is stopped; the last one goes through."""
    plain = config(batch_size=batch_size, epochs=epochs, warmup_steps=3)
    whole, factors = epochs * num_examples, []
    step = examples = taken = 0
    begun = plain.step_size(starts[0][0])
    schedule = plain.with_steps(num_examples, begun)
    for last, (processes, steps) in zip([False] * (len(starts) - 1) + [True], starts, strict=True):
        size = plain.step_size(processes)
        end = plain.with_steps(num_examples, size, step, examples).max_steps
        while step < end and (last or steps):
            factors.append((examples, lr_factor(examples / begun, schedule)))
            step, examples, steps, taken = step + 1, examples + size, steps - 1, size
        if step == end:
            assert whole - 1e-6 <= examples < whole + taken + 1e-6
    alone = {turn * begun: lr_factor(turn, schedule) for turn in range(schedule.max_steps)}
    for at, factor in factors:
        assert 0 < factor <= 1
        assert factor == alone.get(at, factor)  # of a run that was never stopped, when it had seen as many
    falling = [factor for at, factor in factors if at >= 3 * begun]
    assert falling == sorted(falling, reverse=True)


@pytest.mark.parametrize("known", [True, False])
def test_a_run_of_epochs_goes_on_with_steps_of_another_size(setup, clips, tmp_path, monkeypatch, known):
    """As after steps of two processes; known: the checkpoint says so."""
    model, processor, _ = setup()
    data = VideoQADataset(clips / "train.jsonl", None, processor, 2)
    half = Calls(data, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))  # in the third step
    two, three = (
        config(batch_size=size, epochs=2, warmup_steps=0, ramp_steps=8, save_every=1) for size in (2, 3)
    )
    with pytest.raises(Interrupted):
        train(model, processor, half, two, tmp_path)
    progress = newest_checkpoint(tmp_path) / "progress.json"
    said = progress.read_text()
    assert (json.loads(said)["examples"], json.loads(said)["step_size"]) == (6, 2)
    if not known:
        progress.write_text(json.dumps(json.loads(said) | {"step_size": 0}).ljust(len(said)))
    train(*setup()[:2], data, three, tmp_path)
    assert [row["examples"] for row in rows(tmp_path)] == [2, 2, 2, 3, 3]
    turns, schedule = [0, 1, 2, 3, 4.5], two.with_steps(6, 2)
    expected = [schedule.rates.llm * lr_factor(turn, schedule) for turn in turns]
    assert [row["lr"] for row in rows(tmp_path)] == expected
    assert [row["prune_ratio"] for row in rows(tmp_path)] == [(turn + 1) / 16 for turn in turns]
    assert "| steps | 5 of 5 |" in (tmp_path / "model" / "README.md").read_text()
    assert train(None, None, data, two, tmp_path).name == "step-0000005"  # finished, in steps of any size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pack_buffer": 4}, "pack_buffer is 4, must be 0, or at least batch_size"),
        ({"pack_buffer": 1, "max_tokens": 9}, "pack_buffer is 1"),
        ({"max_frames": 0}, "max_frames is 0"),
        ({"too_long": "cut"}, "too_long is 'cut'"),
        ({"loss_weight": "word"}, "loss_weight is 'word'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": 1, "pack_buffer": 4, "max_tokens": 9}, r"check_data\.py"),
    ],
)
def test_settings_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        config(**change)


def test_a_mixture_from_settings(clips, tiny_folder):
    _, processor = load_model(ModelSpec(str(tiny_folder)), STTSConfig())
    part = {"name": "jsonl", "annotations": str(clips / "train.jsonl")}
    values = {
        "name": "mixture",
        "datasets": {"one": part | {"weight": 2}, "two": part},
        "decode_timeout": 30,
        "max_bad_fraction": 0.5,
    }
    data = training_data(DataSpec.from_dict(values), processor, frames=2)
    assert (data.names, data.weights, data.max_bad_fraction) == (["one", "two"], [2, 6], 0.5)
    assert data.parts[0].read.timeout == 30
    assert len(Order(data.sizes, 0, data.weights).borders) == 1
    assert len(data[7]["pixel_values_videos"]) == 2
    for broken, message in (
        ({"datasets": {}}, "data.datasets is empty"),
        ({"datasets": {"one": part | {"weight": 0}}}, r"datasets\.one: weight is 0"),
        ({"datasets": {"one": {"name": "jsonl"}}}, r"datasets\.one: data\.annotations is not set"),
        ({"datasets": {"one": {"name": "mixture"}}}, r"datasets\.one is .*one dataset"),
        ({"annotations": "x"}, "data.annotations has no meaning"),
        ({"max_bad_fraction": 2}, "max_bad_fraction is 2"),
        ({"decode_timeout": "soon"}, "decode_timeout is 'soon'"),
    ):
        with pytest.raises(ValueError, match=message):
            DataSpec.from_dict(values | broken)
