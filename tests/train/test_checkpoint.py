from __future__ import annotations

import pickle
import random
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from stts.train.checkpoint import (
    DamagedError,
    Progress,
    check_files,
    clean_up,
    load_checkpoint,
    resume,
    rng_state,
    save_checkpoint,
    set_rng_state,
)
from stts.train.run_folder import (
    check_output_dir,
    checkpoint_path,
    checkpoints,
    flatten,
    is_finished,
    newest_checkpoint,
    write_settings,
)
from tests.helpers.kills import killed_at


class Host(torch.nn.Linear):
    """The least that can be saved and loaded as a model."""

    def __init__(self) -> None:
        super().__init__(3, 2)

    def save_pretrained(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        torch.save(self.state_dict(), folder / "weights.pt")

    @classmethod
    def from_pretrained(cls, folder: Path, dtype: str) -> Host:
        host = cls()
        host.load_state_dict(torch.load(folder / "weights.pt"))
        return host


class Words:
    def save_pretrained(self, folder: Path) -> None:
        (folder / "words.txt").write_text("a b c")


def trained_host(steps: int = 3) -> tuple[Host, torch.optim.AdamW]:
    host = Host()
    optimizer = torch.optim.AdamW(host.parameters(), lr=0.1)
    for _ in range(steps):
        host(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return host, optimizer


def save(output_dir: Path, step: int, keep: int = 2) -> Path:
    host, optimizer = trained_host()
    return save_checkpoint(
        output_dir, Progress(step, 8 * step), host, Words(), optimizer, [rng_state()], keep
    )


def finish(output_dir: Path, step: int) -> None:
    save(output_dir, step)
    (output_dir / "model").mkdir(exist_ok=True)
    (output_dir / "model" / "config.json").write_text("{}")


def test_loading_gives_back_weights_optimizer_progress_and_random_numbers(tmp_path):
    host, optimizer = trained_host()
    folder = save_checkpoint(tmp_path, Progress(3, 24), host, Words(), optimizer, [rng_state()], keep=1)
    expected = torch.rand(3), random.random(), np.random.rand()

    other, other_optimizer = trained_host(1)
    progress = load_checkpoint(folder, other, other_optimizer)
    assert (torch.rand(3).tolist(), random.random(), np.random.rand()) == (
        expected[0].tolist(),
        *expected[1:],
    )
    assert progress == Progress(3, 24)
    assert torch.equal(other.weight, host.weight)
    for a, b in zip(optimizer.state.values(), other_optimizer.state.values(), strict=True):
        assert all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a)
    assert (folder / "model" / "words.txt").read_text() == "a b c"


def test_a_process_that_was_not_there_before_keeps_its_own_random_numbers(tmp_path):
    folder = save(tmp_path, 1)
    saved = torch.rand(2)
    for process, same in ((0, True), (1, False)):
        load_checkpoint(folder, *trained_host(0), process=process)
        assert torch.equal(torch.rand(2), saved) == same


def test_only_whole_checkpoints_count_and_the_newest_is_by_number(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    save(tmp_path, 9)
    save(tmp_path, 10)
    (tmp_path / "checkpoints" / "step-0000099").mkdir()  # no progress.json: copied by half
    (tmp_path / "checkpoints" / ".step-0000100.partial").mkdir()
    (tmp_path / "checkpoints" / "step-best").mkdir()
    assert newest_checkpoint(tmp_path) == checkpoint_path(tmp_path, 10)


def test_the_oldest_go_when_there_are_more_than_keep(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, keep=3)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-0000002", "step-0000003", "step-0000004"]


def test_a_save_that_fails_leaves_neither_half_a_checkpoint_nor_a_leftover(tmp_path):
    class Full(Words):
        def save_pretrained(self, folder: Path) -> None:
            raise OSError("no space left on device")

    host, optimizer = trained_host()
    save(tmp_path, 1)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(tmp_path, Progress(2, 16), host, Full(), optimizer, [rng_state()], keep=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-0000001"]


@pytest.mark.parametrize("name", ["optimizer.pt", "rng.pt", "progress.json", "model/weights.pt"])
def test_a_damaged_file_is_named(tmp_path, name):
    folder = save(tmp_path, 1)
    (folder / name).write_bytes((folder / name).read_bytes()[:7])
    with pytest.raises(ValueError, match=f"cannot read {folder / name.split('/')[0]}"):
        load_checkpoint(folder, *trained_host(0))


def resumed(output_dir: Path, told: list[str]) -> Progress | None:
    return resume(output_dir, lambda folder: load_checkpoint(folder, *trained_host(0)), told.append)


def overwrite(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


DAMAGES = {
    "a truncated file": ("model/weights.pt", lambda path: path.write_bytes(path.read_bytes()[:9]), "9 bytes"),
    "an empty file": ("optimizer.pt", lambda path: path.write_bytes(b""), "has 0 bytes"),
    "a missing file": ("rng.pt", Path.unlink, "is missing"),
    "a missing folder": ("model", shutil.rmtree, "is missing"),
    "a missing list": ("files.json", Path.unlink, "cannot read"),
    "bad JSON": ("files.json", lambda path: path.write_text('{"model'), "cannot read"),
    "JSON of another kind": ("files.json", lambda path: path.write_text("7"), "cannot read"),
    "progress that is none": ("progress.json", overwrite, "cannot read"),
    "weights full of zeros": ("model/weights.pt", overwrite, "cannot read"),
    "an optimizer full of zeros": ("optimizer.pt", overwrite, "cannot read"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_newest_checkpoint_is_told_and_passed_over(tmp_path, kind):
    name, damage, words = DAMAGES[kind]
    save(tmp_path, 3)
    newest = save(tmp_path, 6)
    damage(newest / name)
    told: list[str] = []
    assert resumed(tmp_path, told) == Progress(3, 24)
    assert len(told) == 1
    assert name.split("/")[0] in told[0]
    assert words in told[0]
    assert "going on from" in told[0]
    assert "step-0000003" in told[0]
    assert [path.name for path in checkpoints(tmp_path)] == ["step-0000003"]
    assert (tmp_path / "checkpoints" / "damaged-step-0000006").is_dir()  # nothing is thrown away

    save(
        tmp_path, 6, keep=1
    )  # the run comes to that step again: the good one counts, and is not in anyone's way
    assert resumed(tmp_path, told) == Progress(6, 48)
    assert len(told) == 1


def test_all_damaged_is_an_error_about_the_newest_and_changes_nothing(tmp_path):
    for step in (3, 6):
        (save(tmp_path, step) / "rng.pt").unlink()
    with pytest.raises(
        DamagedError, match=r"step-0000006/rng\.pt is missing; no checkpoint in .* start over"
    ):
        resumed(tmp_path, [])
    assert len(checkpoints(tmp_path)) == 2
    assert resumed(tmp_path / "elsewhere", []) is None


def test_what_is_no_damage_is_not_passed_over(tmp_path):
    """A checkpoint of another model is fine: the mistake is elsewhere, and an older one would hide it."""
    save(tmp_path, 3)
    save(tmp_path, 6)
    host = Host()
    host.extra = torch.nn.Linear(1, 1)
    with pytest.raises(RuntimeError, match="extra"):
        resume(tmp_path, lambda folder: load_checkpoint(folder, host, trained_host(0)[1]), print)
    assert len(checkpoints(tmp_path)) == 2


def test_only_the_first_process_sets_damaged_checkpoints_aside(tmp_path):
    save(tmp_path, 3)
    (save(tmp_path, 6) / "rng.pt").unlink()

    def load(folder: Path) -> Progress:
        return load_checkpoint(folder, *trained_host(0))

    for _ in range(2):
        assert resume(tmp_path, load, print, is_main=False).step == 3
    assert len(checkpoints(tmp_path)) == 2
    assert resume(tmp_path, load, print).step == 3
    assert resume(tmp_path, load, print, is_main=False).step == 3  # who looks later finds the same
    assert len(checkpoints(tmp_path)) == 1


def test_killed_at_any_file_operation_a_save_leaves_the_old_or_the_new_checkpoint(tmp_path):
    """Real processes, killed before their first, second, ... file operation, until one gets to the end."""
    for count in range(1, 200):
        folder = tmp_path / str(count)
        save(folder, 1, keep=1)
        code = killed_at(count, folder, lambda folder=folder: save(folder, 2, keep=1))
        newest = newest_checkpoint(folder)
        check_files(newest)
        assert resumed(folder, []).step == int(newest.name[-1])
        clean_up(folder)
        names = {path.name for path in (folder / "checkpoints").iterdir()}
        assert names <= {"step-0000001", "step-0000002"}
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert count > 10
    assert names == {"step-0000002"}


def test_no_code_in_a_checkpoint_is_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return Path.touch, (tmp_path / "owned",)

    folder = save(tmp_path, 1)
    (folder / "optimizer.pt").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(ValueError, match=r"optimizer\.pt"):
        load_checkpoint(folder, *trained_host(0))
    torch.save({"state": Attack()}, folder / "optimizer.pt")
    with pytest.raises(ValueError, match=r"optimizer\.pt"):
        load_checkpoint(folder, *trained_host(0))
    assert not (tmp_path / "owned").exists()


def test_random_numbers_go_on_after_a_round_trip_through_a_file(tmp_path):
    torch.save(rng_state(), tmp_path / "rng.pt")
    expected = torch.rand(2).tolist(), random.random(), np.random.rand()
    set_rng_state(torch.load(tmp_path / "rng.pt", weights_only=True))
    assert (torch.rand(2).tolist(), random.random(), np.random.rand()) == expected


SETTINGS = {
    "prune_ratio": 0.5,
    "output_dir": "x",
    "train": {"max_steps": 10, "keep": 2, "betas": [0.9, 0.95], "lr": {"llm": 1e-5}},
    "wandb": {"mode": "disabled"},
}


def changed(**train) -> dict:
    return SETTINGS | {"train": SETTINGS["train"] | train}


def test_the_same_settings_and_harmless_changes_may_go_on(tmp_path):
    write_settings(tmp_path, SETTINGS)
    save(tmp_path, 5)
    check_output_dir(tmp_path, SETTINGS)
    check_output_dir(tmp_path, changed(keep=9, max_steps=20, betas=(0.9, 0.95)))
    check_output_dir(tmp_path, SETTINGS | {"wandb": {"mode": "offline"}, "output_dir": "y"})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (SETTINGS | {"prune_ratio": 0.3}, "prune_ratio=0.5, this one has prune_ratio=0.3"),
        (changed(lr={"llm": 2e-5}), "train.lr.llm=1e-05, this one has train.lr.llm=2e-05"),
        (changed(max_steps=9), "train.max_steps=10, this one has train.max_steps=9"),
        (SETTINGS | {"frames": 8}, "frames=None, this one has frames=8"),
        ({k: v for k, v in SETTINGS.items() if k != "prune_ratio"}, "prune_ratio=0.5"),
    ],
)
def test_a_run_with_other_settings_is_refused_by_name(tmp_path, settings, named):
    write_settings(tmp_path, SETTINGS)
    check_output_dir(tmp_path, settings)  # nothing saved yet: the run may start over
    save(tmp_path, 5)
    with pytest.raises(ValueError, match=named):
        check_output_dir(tmp_path, settings)


def test_a_folder_that_is_a_file_or_lost_its_settings_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        check_output_dir(tmp_path / "file", SETTINGS)
    save(tmp_path, 1)
    with pytest.raises(ValueError, match=r"no config\.yaml"):
        check_output_dir(tmp_path, SETTINGS)


def test_a_run_is_finished_with_its_last_checkpoint_and_its_model(tmp_path):
    save(tmp_path, 5)
    assert not is_finished(tmp_path, 5)
    finish(tmp_path, 5)
    assert is_finished(tmp_path, 5)
    assert not is_finished(tmp_path, 6)


def test_flatten_joins_keys_with_dots():
    assert flatten({"a": 1, "b": {"c": {"d": (1, 2)}, "e": None}}) == {"a": 1, "b.c.d": [1, 2], "b.e": None}
