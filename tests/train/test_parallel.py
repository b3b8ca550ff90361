"""Two processes against one: the same numbers, sharded or not; their checkpoints, in two processes and in one."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.metadata import BytesStorageMetadata
from transformers import Molmo2ForConditionalGeneration

from stts import STTSConfig
from stts.data import Collator, VideoQADataset
from stts.data.feed.order import Order
from stts.files.durable import read_rows
from stts.hosts.folders import ModelSpec
from stts.hosts.load import load_model
from stts.train.config import ParallelConfig
from stts.train.parallel import units
from stts.train.run_folder import newest_checkpoint
from stts.train.tracking import Tracker
from tests.helpers.killed_pair import ALONE, KILLS
from tests.helpers.paths import TESTS
from tests.helpers.tiny_families import make_tiny_family
from tests.helpers.two_processes import CASES, draw_nothing, mean_logit, run

pytestmark = pytest.mark.slow
COMPARED = ("loss", "lm_loss", "aux_loss", "grad_norm", "kept", "score_mean", "score_std", "lr")
Inputs = tuple[Path, Path, Path]
SHARDED = {"ddp": "fsdp", "qwen3_vl": "qwen3_vl_fsdp", "unread": "unread_fsdp"}
"""Cases that differ in whether weights are sharded, and in nothing else."""


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    monkeypatch.setattr(Tracker, "draw_curves", draw_nothing)


@pytest.fixture(scope="module")
def inputs(tiny_folder: Path, tiny_qwen3_vl_folder: Path, clips: Path, tmp_path_factory) -> Inputs:
    """Model, annotations, root; other models beside the annotations. Besides videos there are text alone and a video
    of one frame, which loses nothing."""
    rows = [json.loads(line) for line in (clips / "train.jsonl").read_text().splitlines()]
    rows[1] |= {"start": 0.0, "end": 0.01}
    for colour in ("red", "blue"):
        rows.append({"id": colour, "video": None, "question": f"What is {colour}?", "answer": colour})
    path = tmp_path_factory.mktemp("rows") / "train.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    shutil.copytree(tiny_qwen3_vl_folder, path.parent / "qwen3_vl")
    make_tiny_family("llava_next_video", path.parent / "llava_next_video")
    return tiny_folder, path, clips


@pytest.fixture(scope="module")
def pair(inputs: Inputs, tmp_path_factory) -> Path:
    """Every case, trained by two processes."""
    output_dir = tmp_path_factory.mktemp("pair")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = TESTS / "helpers" / "two_processes.py"
    done = subprocess.run(
        [*launcher, script, *inputs, output_dir], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return output_dir


def rows(output_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]


def assert_same_curve(found: Path, expected: Path, first: int = 1, tolerance: float = 1e-4) -> None:
    found, expected = rows(found), rows(expected)
    assert len(found) == len(expected)
    for one, other in list(zip(found, expected, strict=True))[first - 1 :]:
        for key in COMPARED:
            expected = (
                other[key] if other[key] is None else pytest.approx(other[key], rel=tolerance, abs=1e-6)
            )
            assert one[key] == expected, (one["step"], key)


def weights(output_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(output_dir / "model" / "model.safetensors")


def test_the_data_brings_the_processes_out_of_step(inputs):
    """Else the tests below would not see a process that waits for the other's ViT or scorer."""
    processor = load_model(ModelSpec(str(inputs[0])), STTSConfig())[1]
    dataset = VideoQADataset(*inputs[1:], processor, frames=4)
    kinds = [len(dataset[i]["pixel_values_videos"]) if "video_grids" in dataset[i] else 0 for i in range(8)]
    order = Order([8], seed=0)
    steps = [[order[2 * step], order[2 * step + 1]] for step in range(5)]
    pairs = [{kinds[index] for index in step} for step in steps]
    assert {0, 4} in pairs
    order = Order([8], seed=CASES["text"]["seed"])
    assert {kinds[order[4]], kinds[order[5]]} == {0}
    assert any(1 in pair and len(pair) == 2 for pair in pairs)


@pytest.mark.parametrize("case", ["ddp", "lora", "text", "qwen3_vl", "unread"])
def test_two_processes_learn_what_one_learns_from_the_same_examples(pair, inputs, tmp_path, case):
    run(case, inputs, tmp_path, batch_size=2, parallel=ParallelConfig())
    for name in {case, SHARDED.get(case, case)}:
        assert_same_curve(pair / name, tmp_path)
        one, two = weights(tmp_path), weights(pair / name)
        assert one.keys() == two.keys()
        for key in one:
            torch.testing.assert_close(two[key], one[key], atol=2e-4, rtol=1e-3, msg=f"{name} {key}")


def test_sharded_bf16_is_near_full_precision(pair):
    (one,), other = rows(pair / "bf16"), rows(pair / "ddp")[0]
    assert one["lm_loss"] != other["lm_loss"]
    assert one["lm_loss"] == pytest.approx(other["lm_loss"], rel=0.02)
    assert all(tensor.dtype == torch.float32 for tensor in weights(pair / "bf16").values())


def test_a_sharded_run_leaves_an_ordinary_folder(pair, inputs):
    folder = pair / "fsdp" / "model"
    evaluations = [json.loads(line) for line in (pair / "fsdp" / "eval.jsonl").read_text().splitlines()]
    model, processor = load_model(ModelSpec(str(folder)), STTSConfig())
    said = mean_logit(model, VideoQADataset(*inputs[1:], processor, frames=4))
    assert said == pytest.approx(evaluations[-1]["logit"], abs=1e-6)
    plain, info = Molmo2ForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["STTSMolmo2ForConditionalGeneration"]


def test_a_sharded_run_that_was_killed_goes_on_bit_for_bit(pair, inputs, tmp_path):
    """Three starts, two kill -9: between the parts of a checkpoint, and in the middle of a step, where the other
    process must not hang."""
    script = TESTS / "helpers" / "killed_pair.py"
    command = [sys.executable, script, *inputs, tmp_path / "run"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    starts = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [start["ended"][kill[0]] for start, kill in zip(starts, KILLS, strict=False)] == [-9] * len(KILLS)
    assert starts[ALONE]["ended"] == [1, -9]
    assert starts[-1]["ended"] == [0, 0], done.stderr
    began = [row["step"] for row in read_rows(tmp_path / "run" / "starts.jsonl")]
    assert began == [0, 2, 2]

    timed = ("seconds", "tokens_per_s", "data_wait", "churn")
    killed, straight = (
        [{k: v for k, v in row.items() if k not in timed} for row in rows(folder)]
        for folder in (tmp_path / "run", pair / "fsdp")
    )
    assert killed == straight
    files = [folder / "model" / "model.safetensors" for folder in (tmp_path / "run", pair / "fsdp")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not list((tmp_path / "run").rglob(".*.partial"))


def test_a_sharded_checkpoint_goes_on_in_one_process(pair, inputs, tmp_path):
    shutil.copytree(pair / "fsdp", tmp_path / "run", ignore=shutil.ignore_patterns("step-0000005", "model"))
    shards = newest_checkpoint(tmp_path / "run") / "shards"
    assert newest_checkpoint(tmp_path / "run").name == "step-0000004"
    assert len(list(shards.glob("*.distcp"))) == 2
    run("fsdp", inputs, tmp_path / "run", batch_size=2, eval_every=0)
    assert_same_curve(tmp_path / "run", pair / "fsdp", first=5)


def test_epochs_that_two_processes_began_end_in_one(pair, inputs, tmp_path):
    """Ten examples, eight of them trained on: one process needs two steps for what is left."""
    shutil.copytree(pair / "text", tmp_path / "run", ignore=shutil.ignore_patterns("step-0000005"))
    shutil.rmtree(tmp_path / "run" / "model")
    assert newest_checkpoint(tmp_path / "run").name == "step-0000004"
    run("text", inputs, tmp_path / "run")
    found, expected = rows(tmp_path / "run"), rows(pair / "text")
    assert [row["examples"] for row in found] == [2, 2, 2, 2, 1, 1]
    assert found[4]["lr"] == expected[4]["lr"]


def as_code(metadata: bytes, owned: Path) -> bytes:
    class Attack:
        def __reduce__(self):
            return Path.touch, (owned,)

    return pickle.dumps(Attack())


def as_bytes(metadata: bytes, owned: Path) -> bytes:
    """An index that calls a tensor bytes: torch would unpickle them."""
    index = pickle.loads(metadata)
    index.state_dict_metadata["model.lm_head.weight"] = BytesStorageMetadata()
    return pickle.dumps(index)


@pytest.mark.parametrize(("damage", "said"), [(as_code, "metadata"), (as_bytes, r"no tensor model\.lm_head")])
def test_shards_are_tensors_and_nothing_else(pair, inputs, tmp_path, damage, said):
    shutil.copytree(pair / "fsdp", tmp_path / "run", ignore=shutil.ignore_patterns("model"))
    for checkpoint in (tmp_path / "run" / "checkpoints").iterdir():
        index = checkpoint / "shards" / ".metadata"
        index.write_bytes(damage(index.read_bytes(), tmp_path / "owned"))
        (checkpoint / "files.json").write_text("{}")
    with pytest.raises(ValueError, match=said):
        run("fsdp", inputs, tmp_path / "run", batch_size=2, max_steps=6)
    assert not (tmp_path / "owned").exists()


def units_in_order(model: torch.nn.Module, batch: dict, monkeypatch) -> list[str]:
    """Names of the units that a forward pass runs, in the order in which they begin."""
    seen = []
    names = {module: name for name, module in model.named_modules()}
    scorer = model.host.scorer
    score_windows = type(scorer).score_windows

    def note(module: torch.nn.Module, *_) -> None:
        seen.append(names[module])

    parts = [part for unit in units(model) for part in (unit if isinstance(unit, list) else [unit])]
    hooks = [part.register_forward_pre_hook(note) for part in parts]
    with monkeypatch.context() as patch:
        patch.setattr(type(scorer), "score_windows", lambda *args: (note(scorer), score_windows(*args))[1])
        model(**batch)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("name", ["molmo2", "qwen3_vl"])
@pytest.mark.parametrize("prune_ratio", [0.0, 0.5])
def test_in_lockstep_every_batch_runs_the_same_units(inputs, monkeypatch, prune_ratio, name):
    folder = inputs[0] if name == "molmo2" else inputs[1].parent / name
    model, processor = load_model(ModelSpec(str(folder)), STTSConfig(prune_ratio=prune_ratio))
    model.train()
    dataset = VideoQADataset(*inputs[1:], processor, frames=4)
    examples = {"video": dataset[0], "frame": dataset[1], "text": dataset[6]}
    collate = Collator(0, video_form=processor.video_form)
    batches = {kind: collate([example]) for kind, example in examples.items()}
    for batch in batches.values():
        del batch["ids"]
    apart = {kind: units_in_order(model, batch, monkeypatch) for kind, batch in batches.items()}
    losses = {kind: model(**batch).loss.item() for kind, batch in batches.items()}
    assert apart["text"] != apart["video"]
    model.lockstep = True
    together = {kind: units_in_order(model, batch, monkeypatch) for kind, batch in batches.items()}
    assert together["text"] == together["frame"] == together["video"] == apart["video"]
    scorer = list(model.host.scorer.parameters())
    for kind, batch in batches.items():
        loss = model(**batch).loss
        assert loss.item() == pytest.approx(losses[kind], rel=1e-5), kind
        model.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters() if all(p is not q for q in scorer)), kind
        assert all((p.grad is not None) == bool(prune_ratio) for p in scorer), kind


def test_every_case_was_trained(pair):
    assert {path.name for path in pair.iterdir()} == set(CASES)
    assert not list(pair.glob("*/checkpoints/.*"))
