"""A folder, a run: one process at a time, the same annotations, and one line for what is wrong with the folder."""

from __future__ import annotations

import errno
import importlib.util
import json
import multiprocessing
import os
import resource
import shlex
import signal
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hydra.core.override_parser.overrides_parser import OverridesParser

from stts import STTSConfig
from stts.data import DataSpec, VideoQADataset
from stts.data.digest import with_digests
from stts.files.lock import NAME, only_run
from stts.hosts.folders import ModelSpec
from stts.hosts.load import load_model
from stts.train.loop import train
from stts.train.prepare import refuse_damaged_weights
from stts.train.run_folder import (
    check_output_dir,
    checkpoints,
    make_output_dir,
    newest_checkpoint,
    read_settings,
    write_settings,
)
from tests.helpers.paths import ROOT
from tests.helpers.runs import Calls, config, rows, weights

ROW = {"id": "a", "video": None, "question": "What is red?", "answer": "red"}


@pytest.fixture
def setup(tiny_folder: Path, clips: Path):
    def make():
        torch.manual_seed(0)
        model, processor = load_model(ModelSpec(str(tiny_folder)), STTSConfig())
        return model, processor, VideoQADataset(clips / "train.jsonl", None, processor, frames=2)

    return make


# --- one process


def held(folder: Path, ready) -> None:
    with only_run(folder):
        ready.set()
        signal.pause()


def test_the_folder_of_a_run_is_its_own_until_its_process_ends(tmp_path, monkeypatch, setup):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    other = context.Process(target=held, args=(tmp_path, ready))
    other.start()
    assert ready.wait(60)
    monkeypatch.setattr("stts.files.lock.PATIENCE", 0.0)
    model, processor, data = setup()
    named = rf"output_dir is {tmp_path}, in which another process is training; .* give another output_dir"
    with pytest.raises(ValueError, match=named):
        train(model, processor, data, config(max_steps=1), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    other.kill()
    other.join()
    with (
        only_run(tmp_path),
        pytest.raises(ValueError, match="another process is training"),
        only_run(tmp_path),
    ):
        pass
    with only_run(tmp_path):
        pass


def test_training_holds_the_folder_from_its_first_step_to_its_last(tmp_path, setup):
    model, processor, data = setup()
    free = []

    def look():
        lock = FileLock(tmp_path / NAME)
        try:
            lock.acquire(timeout=0)
        except TimeoutError:
            free.append(False)
        else:
            lock.release()
            free.append(True)

    train(model, processor, Calls(data, 1, look), config(max_steps=1), tmp_path)
    look()
    assert free == [False, True]


def test_without_locks_a_run_goes_on_with_a_warning(tmp_path, monkeypatch, caplog):
    def no_locks(*args, **kwargs):
        raise NotImplementedError

    monkeypatch.setattr(FileLock, "acquire", no_locks)
    with only_run(tmp_path):
        assert "without locks" in caplog.text


# --- the same data


def write(path: Path, *ids: str) -> Path:
    path.write_text("".join(json.dumps(ROW | {"id": name}) + "\n" for name in ids))
    return path


def test_other_annotations_are_another_run(tmp_path):
    path, run = write(tmp_path / "rows.jsonl", "a", "b"), tmp_path / "run"
    data = {"name": "jsonl", "annotations": str(path)}

    def settings():
        return {"data": with_digests(data, DataSpec.from_dict(data))}

    before = settings()
    write_settings(run, before)
    (run / "checkpoints" / "step-0000001").mkdir(parents=True)
    (run / "checkpoints" / "step-0000001" / "progress.json").write_text("{}")
    path.write_bytes(path.read_bytes())  # the same again
    assert settings() == before
    check_output_dir(run, settings())
    write(path, "a", "c")
    with pytest.raises(
        ValueError, match=rf"data\.digest={before['data']['digest']}, this one has data\.digest="
    ):
        check_output_dir(run, settings())
    check_output_dir(run, {"data": data})  # before the data are made there is no digest
    write_settings(run, {"data": data})  # as runs did that began without one
    check_output_dir(run, settings())
    path.unlink()
    with pytest.raises(ValueError, match=r"rows\.jsonl"):
        settings()


def test_every_kind_of_data_has_a_digest(tmp_path, clips, monkeypatch):
    monkeypatch.chdir(tmp_path)
    turns = [{"from": "human", "value": "<image>\nWhy?"}, {"from": "gpt", "value": "So."}]
    llava = [{"id": "x", "conversations": turns, "data_source": "s", "video": "v.mp4"}]
    (tmp_path / "a_processed.json").write_text(json.dumps(llava))
    (tmp_path / "v.mp4").write_bytes(next((clips / "videos").rglob("*.mp4")).read_bytes())
    own = {"name": "jsonl", "annotations": str(write(tmp_path / "rows.jsonl", "a")), "weight": 2.0}
    published = {"name": "llava_video", "annotations": str(tmp_path / "a_processed.json")}
    made = {"name": "synthetic", "folder": str(tmp_path / "made"), "num_train": 1, "num_test": 1, "slots": 5}
    mixture = {"name": "mixture", "datasets": {"own": own, "pub": published, "made": made}}
    found = with_digests(mixture, DataSpec.from_dict(mixture))
    digests = [part.pop("digest") for part in found["datasets"].values()]
    assert found == mixture
    assert len(set(digests)) == 3
    changed = made | {"seed": 5}
    assert with_digests(changed, DataSpec.from_dict(changed))["digest"] not in digests
    turns[1]["value"] = "Not so."
    (tmp_path / "a_processed.json").write_text(json.dumps(llava))
    assert with_digests(published, DataSpec.from_dict(published))["digest"] not in digests


def test_settings_are_compared_again_once_the_folder_is_held(tmp_path, setup):
    settings = {"frames": 2, "data": {"name": "jsonl"}, "video": {"max_fps": 2.0}, "train": {"lr": {}}}
    train(*setup(), config(max_steps=1), tmp_path, settings=settings)
    with pytest.raises(ValueError, match="holds a run with frames=2, this one has frames=3"):
        train(*setup(), config(max_steps=2), tmp_path, settings=settings | {"frames": 3})


# --- a folder that cannot be what it must be


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty, must hold the settings of a run"),
        (b"# nothing\n", "is empty"),
        (b"{}", "is empty"),
        (b"- a\n- b\n", "is a list"),
        (b"just text", "is a str"),
        (b"12", "is a int"),
        (b"a: !!python/object/apply:os.system ['touch owned']\n", "cannot be read .* could not determine"),
        (b"a: !mine 3\n", "cannot be read"),
        (b"a: [1\n", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"a: 2026-99-99\n", "cannot be read"),
        (b"[" * 500, "cannot be read"),
        (b"train: 5\n", "holds a run with train=5"),
        (b"train: {max_steps: many}\n", "train.max_steps=many"),
        (b"1: 2\ntrue: {3: 4}\n", "holds a run with 1"),
    ],
)
def test_settings_that_are_none_are_refused_by_name(tmp_path, content, reason, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints" / "step-0000001").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-0000001" / "progress.json").write_text("{}")
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=rf"(?s){reason}.*give another output_dir") as error:
        check_output_dir(tmp_path, {"train": {"max_steps": 3}})
    assert str(tmp_path) in str(error.value)
    assert not (tmp_path / "owned").exists()


def test_settings_come_back(tmp_path):
    settings = {"train": {"betas": [0.9, 0.95], "epochs": None}, "name": "größer"}
    write_settings(tmp_path, settings)
    assert read_settings(tmp_path) == settings
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(ValueError, match="cannot be read as the settings of a run"):
        read_settings(tmp_path)


@pytest.mark.parametrize("name", ["/proc/runs/one", "file/one", "x" * 300])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"output_dir is .*, where nothing can be written \(.*give another"):
        make_output_dir(tmp_path / name)
    make_output_dir(tmp_path / "new" / "one")
    make_output_dir(tmp_path / "new" / "one")
    assert not list((tmp_path / "new" / "one").iterdir())


def test_a_full_disk_ends_a_run_with_one_message_and_costs_nothing(tmp_path, setup):
    """The system's own limit on the size of a file stands for the end of the disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    small = 400_000  # the first to reach it are the weights
    model, processor, data = setup()
    full = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (small, limits[1]))  # noqa: E731
    data = Calls(data, 3, full)  # in the second step
    run = tmp_path / "run"
    try:
        with pytest.raises(
            ValueError, match=rf"cannot go on in {run}: .*Nothing that was saved before is lost"
        ):
            train(model, processor, data, config(max_steps=2, save_every=1), run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in checkpoints(run)] == ["step-0000001"]
    assert not list(run.rglob(".*"))
    train(*setup(), config(max_steps=2, save_every=1), run)
    train(*setup(), config(max_steps=2, save_every=1), tmp_path / "straight")
    assert rows(run) == rows(tmp_path / "straight")
    assert weights(run) == weights(tmp_path / "straight")


def test_a_disk_that_ends_in_the_optimizer_state_or_a_row_is_told(tmp_path, setup, monkeypatch):
    model, processor, data = setup()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = sum(p.numel() for p in model.parameters()) * 4  # for the weights, not for twice as many moments

    def end_of_the_disk(*args):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))

    monkeypatch.setattr("stts.train.checkpoint.save_model", end_of_the_disk)
    try:
        with pytest.raises(ValueError, match=r"cannot go on in .*optimizer\.pt"):
            train(model, processor, data, config(max_steps=1), tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert newest_checkpoint(tmp_path / "run") is None
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "starts.jsonl").symlink_to("/dev/full")
    with pytest.raises(ValueError, match=f"cannot go on in .*{os.strerror(errno.ENOSPC)}"):
        train(model, processor, data, config(max_steps=1), tmp_path / "other")


# --- a model that is no model


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused_before_training(tmp_path, setup, value):
    model, processor, data = setup()
    refuse_damaged_weights(model)
    with torch.no_grad():
        model.model.vision_tower.layers[1].mlp.fc1.weight[3, 2] = value
    with pytest.raises(
        ValueError, match=r"tiny-seed0 has weights .* in model\.vision_tower\.layers\.1\.mlp\.fc1"
    ):
        train(model, processor, data, config(), tmp_path)
    assert newest_checkpoint(tmp_path) is None


def test_what_to_do_next_can_be_pasted():
    path = ROOT / "scripts" / "train.py"
    spec = importlib.util.spec_from_file_location("train_script", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for name in (
        "outputs/train/x-0.5/model",
        "a=1/m",
        "é, [b]/{c}",
        "it's $HOME",
        "back\\slash",
        "end\\",
        "\\'",
        "x y#",
    ):
        for line in script.next_steps(Path(name)).splitlines():
            words = shlex.split(line)
            (parsed,) = OverridesParser.create().parse_overrides([words[words.index("python") + 2]])
            assert parsed.key_or_group == "checkpoint"
            assert parsed.value() == name
