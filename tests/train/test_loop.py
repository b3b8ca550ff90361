from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from stts import STTSConfig
from stts.data import Collator, VideoQADataset
from stts.data.feed.order import Order
from stts.hosts.folders import ModelSpec
from stts.hosts.load import load_model
from stts.train.loop import Interrupted, LearningRates, train
from stts.train.optim import group_of
from stts.train.run_folder import newest_checkpoint
from stts.train.trainer import Trainer
from tests.helpers.runs import Calls, config, rows, weights


@pytest.fixture
def setup(tiny_folder: Path, clips: Path):
    """setup(prune_ratio=...) -> a tiny model with the same weights every time, its processor, its data."""

    def make(**stts: Any):
        torch.manual_seed(0)
        model, processor = load_model(ModelSpec(str(tiny_folder)), STTSConfig(**stts))
        return model, processor, VideoQADataset(clips / "train.jsonl", None, processor, frames=4)

    return make


@pytest.fixture(scope="module")
def straight(tiny_folder: Path, clips: Path, tmp_path_factory) -> Path:
    """Six steps without a stop."""
    torch.manual_seed(0)
    model, processor = load_model(ModelSpec(str(tiny_folder)), STTSConfig())
    dataset = VideoQADataset(clips / "train.jsonl", None, processor, frames=4)
    output_dir = tmp_path_factory.mktemp("straight")
    train(model, processor, dataset, config(), output_dir)
    return output_dir


def test_a_killed_run_goes_on_bit_for_bit(setup, straight, tmp_path):
    class Killed(BaseException):
        pass

    def power_cut():
        raise Killed

    model, processor, dataset = setup()
    with pytest.raises(Killed):
        train(
            model, processor, Calls(dataset, 9, power_cut), config(), tmp_path
        )  # while step 5 is being read
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4]
    assert newest_checkpoint(tmp_path).name == "step-0000003"

    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # the line it was writing
    last = train(*setup(), config(num_workers=1), tmp_path)
    assert last.name == "step-0000006"
    assert rows(tmp_path) == rows(straight)
    assert weights(tmp_path) == weights(straight)
    assert weights(last) == weights(straight)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_finishes_the_step_saves_and_stops(setup, straight, tmp_path, signum, code):
    model, processor, dataset = setup()
    before = signal.getsignal(signum)
    dataset = Calls(dataset, 4, lambda: os.kill(os.getpid(), signum))  # while step 2 is being read
    with pytest.raises(Interrupted, match="Run the same command again") as stop:
        train(model, processor, dataset, config(save_every=0), tmp_path)
    assert stop.value.exit_code == code
    assert stop.value.checkpoint == newest_checkpoint(tmp_path) == tmp_path / "checkpoints" / "step-0000002"
    assert signal.getsignal(signum) is before
    train(*setup(), config(save_every=0), tmp_path)
    assert rows(tmp_path) == rows(straight)
    assert weights(tmp_path) == weights(straight)


def test_a_second_ctrl_c_stops_at_once(setup, tmp_path):
    model, processor, dataset = setup()

    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(model, processor, Calls(dataset, 4, twice), config(), tmp_path)
    assert newest_checkpoint(tmp_path) is None


def test_a_finished_run_returns_at_once_and_may_be_made_longer(setup, straight, tmp_path, capsys):
    short = config(max_steps=2, schedule="constant")
    last = train(*setup(), short, tmp_path)
    stamp = (tmp_path / "model" / "config.json").stat().st_mtime_ns
    capsys.readouterr()
    assert train(None, None, None, short, tmp_path) == last  # the model is not even looked at
    assert "finished already, 2 steps" in capsys.readouterr().out
    assert (tmp_path / "model" / "config.json").stat().st_mtime_ns == stamp
    train(*setup(), config(max_steps=3, schedule="constant"), tmp_path)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3]


def test_time_spent_waiting_for_data_is_told(setup, tmp_path):
    model, processor, dataset = setup()
    slow = Calls(dataset, 3, lambda: time.sleep(0.4))  # the first of the second step
    train(model, processor, slow, config(max_steps=2), tmp_path)
    first, second = (row["data_wait"] * row["seconds"] for row in rows(tmp_path, timed=True))
    assert second >= 0.4
    assert first > 0


def test_metrics_have_every_step_and_the_exact_share_kept(setup, straight, tmp_path):
    train(*setup(prune_ratio=0.8), config(max_steps=5, log_every=3), tmp_path)
    found = rows(tmp_path, timed=True)
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5]
    # 4 frames of 16 windows: the first frame stays, so at most 48 of 64 can go; 0.8 * 64 = 51.2 wants more.
    assert [row["kept"] for row in found] == [16 / 64] * 5
    for row in found:
        assert row["loss"] == pytest.approx(row["lm_loss"] + 0.5 * row["aux_loss"])
        assert row["tokens_per_s"] > 0
        assert row["seconds"] > 0
        assert 0 < row["data_wait"] < 1
        assert 0 < row["score_mean"] < 1
        assert row["score_std"] > 0
        assert row["lr"] == row["lr_llm"]
    assert found[0]["lr_llm"] == pytest.approx(LearningRates().llm / 2)
    assert found[-1]["loss"] < found[0]["loss"]
    assert {row["kept"] for row in rows(straight)} == {0.5}


def test_the_prune_ratio_ramps_up(setup, tmp_path):
    model, processor, data = setup(prune_ratio=0.5)
    train(model, processor, data, config(max_steps=5, ramp_steps=4), tmp_path)
    found = rows(tmp_path)
    assert [row["prune_ratio"] for row in found] == [0.125, 0.25, 0.375, 0.5, 0.5]
    total = len(data[0]["video_token_pooling"])
    assert [row["kept"] for row in found] == [1 - int(total * row["prune_ratio"]) / total for row in found]
    assert model.stts.prune_ratio == 0.5
    checkpoint = json.loads((newest_checkpoint(tmp_path) / "model" / "config.json").read_text())
    assert checkpoint["stts"]["prune_ratio"] == 0.5


def test_scores_targets_and_churn_are_those_of_frames_that_may_lose_windows(setup, tmp_path):
    model, processor, data = setup(prune_ratio=0.5)
    example = data[0]
    collate = Collator(processor.pad_token_id)
    with torch.no_grad():
        out = model(**{k: v for k, v in collate([example]).items() if k != "ids"})
    trainer = Trainer(model, processor, config(max_steps=9, warmup_steps=0), tmp_path)
    trainer.step([collate([example])])
    row = trainer.read_metrics()[0]
    for name, values in (("score", out.scores[1:]), ("target", out.targets[1:])):
        assert row[f"{name}_mean"] == pytest.approx(values.mean().item(), abs=1e-5)
        assert row[f"{name}_std"] == pytest.approx(values.std(correction=0).item(), abs=1e-5)
    assert row["churn"] is None
    before = out.keep_windows[1:]
    trainer.step([collate([example])])
    trainer.read_metrics()
    now = trainer.churn.masks[example["id"]][1:]
    trainer.step([collate([example])])
    assert trainer.read_metrics()[0]["churn"] is not None
    masks = torch.cat([torch.ones(1, now.shape[1]).bool(), before])
    keep = trainer.churn.update(masks, collate([example]), trainer.device)
    last = trainer.churn.masks[example["id"]]
    assert torch.equal(last[1:], before)
    assert keep["compared"] > 0


def reference_gradient(model, batches: list[dict]) -> tuple[float, dict[str, torch.Tensor]]:
    """The step's loss written out: every supervised token and every pair of frames counts once."""
    token_losses, aux, pairs, stts = [], 0.0, 0, model.stts
    taught, windows = torch.zeros(()), 0
    for batch in batches:
        inputs = {key: value for key, value in batch.items() if key not in ("ids", "labels")}
        out = model(**inputs)
        for row, keep, labels in zip(out.logits, out.keep_mask, batch["labels"], strict=True):
            labels = labels[keep]
            logits = row[: len(labels)].log_softmax(-1)
            for position in range(1, len(labels)):
                if labels[position] >= 0:
                    token_losses.append(-logits[position - 1, labels[position]])
        frames = batch["layout"].frames_per_video
        aux = aux + out.aux_loss * sum(t - 1 for t in frames)
        pairs += sum(t - 1 for t in frames)
        kept = sum(t * 16 - min(int(t * 16 * stts.prune_ratio), (t - 1) * 16) - 16 for t in frames)
        taught = taught + (out.relevance.loss * kept if out.relevance else 0)
        windows += kept
    loss = torch.stack(token_losses).mean() + 0.5 * aux / pairs
    (loss + stts.relevance_weight * taught / windows).backward()
    gradient = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    return loss.item(), gradient


def recorded_gradient(trainer: Trainer, batches: list[dict]) -> tuple[float, dict[str, torch.Tensor]]:
    gradient = {}
    trainer.optimizer.step = lambda: gradient.update(
        {name: p.grad.clone() for name, p in trainer.plain_model.named_parameters()}
    )
    trainer.step(batches)
    return trainer.read_metrics()[0]["loss"], gradient


@pytest.mark.parametrize(("splits", "weight"), [((4,), 0.0), ((1, 3), 0.7), ((1, 1, 1, 1), 0.0)])
def test_the_loss_of_a_step_does_not_depend_on_how_it_is_split(setup, tmp_path, splits, weight):
    model, processor, dataset = setup(relevance_weight=weight)
    collate = Collator(processor.pad_token_id, prune_ratio=0.5)
    examples = [dataset[i] for i in range(4)]
    examples[1]["labels"][:-30] = -100  # so that means of means would be far off
    dataset.frames = 2
    examples[2] = dataset[2]
    examples[3]["labels"][:] = -100  # in a batch of its own there is nothing to predict
    trainer = Trainer(model, processor, config(max_grad_norm=0), tmp_path)
    expected_loss, expected = reference_gradient(model, [collate([example]) for example in examples])

    remaining = list(examples)
    batches = [collate([remaining.pop(0) for _ in range(size)]) for size in splits]
    loss, gradient = recorded_gradient(trainer, batches)
    assert bool(loss - expected_loss > 1e-3) == bool(weight)  # relevance shows in the gradient alone
    assert weight or loss == pytest.approx(expected_loss, abs=1e-5)
    for name in expected:
        torch.testing.assert_close(gradient[name], expected[name], atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("change", [{"gradient_checkpointing": True}, {"max_tokens": 700}])
def test_checkpointing_and_packing_change_the_cost_but_not_the_step(setup, straight, tmp_path, change):
    train(*setup(), config(max_steps=1, **change), tmp_path)
    row, expected = rows(tmp_path)[0], rows(straight)[0]
    for key in ("loss", "lm_loss", "aux_loss", "grad_norm", "kept", "score_std"):
        assert row[key] == pytest.approx(expected[key], rel=1e-3), key


def test_bf16_trains(setup, straight, tmp_path):
    train(*setup(), config(max_steps=1, mixed_precision="bf16"), tmp_path)
    row, expected = rows(tmp_path)[0], rows(straight)[0]
    assert row["lm_loss"] != expected["lm_loss"]
    assert row["lm_loss"] == pytest.approx(expected["lm_loss"], rel=0.02)


def changed_parts(before: dict, model) -> set[str]:
    return {
        group_of(n, model.host.parts) for n, p in model.named_parameters() if not torch.equal(before[n], p)
    }


@pytest.mark.parametrize(
    ("stts", "settings", "expected"),
    [
        ({}, {"vit": False, "llm": False}, {"adapter", "scorer"}),
        ({}, {"vit": False, "lr": LearningRates(llm=0.0)}, {"adapter", "scorer"}),
        ({}, {"scorer": False}, {"vision", "adapter", "llm"}),
        ({"prune_ratio": 0.0}, {}, {"vision", "adapter", "llm"}),
        ({"policy": "random"}, {}, {"vision", "adapter", "llm"}),
        ({"policy": "temporal"}, {"adapter": False}, {"vision", "llm"}),
    ],
)
def test_frozen_parts_and_a_scorer_nobody_asks_stay_as_they_are(setup, tmp_path, stts, settings, expected):
    model, processor, dataset = setup(**stts)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, processor, dataset, config(max_steps=1, **settings), tmp_path)
    assert changed_parts(before, model) == expected


@pytest.mark.parametrize(
    ("stts", "settings"),
    [({}, {"llm": False, "scorer": False}), ({"prune_ratio": 0.0}, {"llm": False}), ({}, {})],
)
def test_a_step_of_text_alone_decays_what_only_videos_teach(setup, tmp_path, stts, settings):
    """As on several processes, where DDP gives every parameter a gradient."""
    model, processor, _ = setup(**stts)
    messages = [{"role": "user", "content": "What is red?"}, {"role": "assistant", "content": "Red."}]
    text = processor(messages) | {"id": "text"}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer = Trainer(model, processor, config(warmup_steps=0, weight_decay=0.5, **settings), tmp_path)
    trainer.step([Collator(processor.pad_token_id)([text])])
    trainer.read_metrics()
    assert trainer.bad is None
    matrix = "model.vision_tower.layers.0.mlp.fc1.weight"
    shrunk = before[matrix] * (1 - 0.5 * trainer.config.lr.vision)
    torch.testing.assert_close(dict(model.named_parameters())[matrix].detach(), shrunk)
    assert all(p in trainer.optimizer.state for p in trainer.parameters)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_examples(setup, tmp_path):
    model, processor, dataset = setup()
    order = Order([len(dataset)], seed=0)
    second = [order[2], order[3]]

    class Poisoned(VideoQADataset):
        def __getitem__(self, index):
            if index == second[1]:
                with torch.no_grad():
                    model.lm_head.weight[0, 0] = torch.inf
            return super().__getitem__(index)

    dataset.__class__ = Poisoned
    with pytest.raises(ValueError, match=r"the loss is nan .* at step 2") as error:
        train(model, processor, dataset, config(log_every=3, save_every=0), tmp_path)
    ids = [dataset.rows[index]["id"] for index in second]
    assert json.loads((tmp_path / "bad_batch.json").read_text()) == {"step": 2, "ids": ids}
    assert ", ".join(ids) in str(error.value)
    assert [row["step"] for row in rows(tmp_path)] == [1]
    assert newest_checkpoint(tmp_path) is None


def test_evaluation_comes_in_time_and_leaves_training_alone(setup, tmp_path):
    seen = []

    def evaluate(model, step):
        assert not model.training
        torch.rand(7)  # an evaluation may draw, too
        seen.append(step)
        return {"accuracy": step / 10, "note": "text"}

    plain, evaluated = tmp_path / "plain", tmp_path / "evaluated"
    train(*setup(policy="random"), config(max_steps=5), plain)
    train(*setup(policy="random"), config(max_steps=5, eval_every=2), evaluated, evaluate)
    assert seen == [2, 4, 5]
    found = [json.loads(line) for line in (evaluated / "eval.jsonl").read_text().splitlines()]
    assert found == [{"step": s, "accuracy": s / 10, "note": "text"} for s in seen]
    assert rows(plain) == rows(evaluated)
