from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stts.files.durable import append_rows
from stts.train import tracking
from stts.train.config import WandbConfig
from stts.train.provenance import git_state
from stts.train.run_folder import evaluation_folder
from stts.train.tracking import Tracker


def row(step: int, **changes) -> dict:
    numbers = {
        "loss": 1.5,
        "lm_loss": 1.25,
        "aux_loss": 0.5,
        "kept": 0.5,
        "tokens_per_s": 1234.5,
        "seconds": 90.0,
    }
    return {"step": step, **numbers, "score_mean": None, **changes}


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_without_a_terminal_there_are_plain_lines_and_not_too_many(tmp_path, capsys):
    with Tracker(tmp_path, max_steps=100) as tracker:
        for step in range(1, 101):
            tracker.log([row(step)])
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 20
    assert out[0] == "step 5/100  loss 1.5000  aux 0.5000  kept 50.0%  1,234 tokens/s  eta 2:22:30"
    assert out[-1].startswith("step 100/100")
    assert len(lines(tmp_path / "metrics.jsonl")) == 100


def test_on_a_terminal_there_is_a_bar(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setenv("TERM", "xterm")
    with Tracker(tmp_path, max_steps=4, step=1) as tracker:
        tracker.log([row(2), row(3, loss=0.25)])
        tracker.say("half [of] it")
    out = capsys.readouterr().out
    assert "3/4" in out
    assert "loss 0.2500" in out
    assert "half [of] it" in out
    assert "step 2/4" not in out


def test_evaluations_have_a_file_of_their_own(tmp_path, capsys):
    with Tracker(tmp_path, max_steps=4) as tracker:
        tracker.log_evaluation(2, {"accuracy": 0.5, "recall": None})
    assert lines(tmp_path / "eval.jsonl") == [{"step": 2, "accuracy": 0.5, "recall": None}]
    assert "evaluation at step 2: accuracy 0.5" in capsys.readouterr().out


def test_all_but_the_first_process_say_and_write_nothing(tmp_path, capsys):
    with Tracker(tmp_path, max_steps=4, enabled=False) as tracker:
        tracker.log([row(1)])
        tracker.log_evaluation(1, {"accuracy": 1.0})
        tracker.say("hello")
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().out == ""


class FakeWandb:
    """Records what would be sent."""

    def __init__(self) -> None:
        self.started, self.logged, self.exit_codes = [], [], []

    def init(self, **kwargs) -> FakeWandb:
        self.started.append(kwargs)
        return self

    def log(self, numbers: dict, step: int) -> None:
        self.logged.append((step, numbers))

    def finish(self, exit_code: int) -> None:
        self.exit_codes.append(exit_code)

    def Table(self, columns: list, data: list) -> tuple:  # noqa: N802
        return ("table", columns, data)

    def Image(self, path: str) -> tuple:  # noqa: N802
        return ("image", path)


@pytest.fixture
def wandb(monkeypatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


OFFLINE = WandbConfig(mode="offline", project="p")


def test_wandb_gets_every_row_and_goes_on_with_the_same_run(tmp_path, wandb):
    with Tracker(tmp_path, 4, wandb=OFFLINE, settings={"prune_ratio": 0.5}) as tracker:
        tracker.log([row(1), row(2)])
        tracker.log_evaluation(2, {"accuracy": 0.5})
    with pytest.raises(KeyError), Tracker(tmp_path, 4, step=2, wandb=OFFLINE):
        raise KeyError
    assert wandb.started[0]["id"] == wandb.started[1]["id"] == (tmp_path / "wandb_run_id.txt").read_text()
    assert wandb.started[0]["mode"] == "offline"
    assert wandb.started[0]["config"]["prune_ratio"] == 0.5
    assert wandb.started[0]["name"] == tmp_path.name
    expected = {k: v for k, v in row(1).items() if v is not None}
    assert wandb.logged == [(1, expected), (2, expected | {"step": 2}), (2, {"eval/accuracy": 0.5})]
    assert wandb.exit_codes == [0, 1]


def test_every_start_is_listed_with_its_code_and_wandb_knows_too(tmp_path, wandb):
    for step in (0, 3):
        with Tracker(tmp_path, 4, step, wandb=OFFLINE):
            pass
    starts = lines(tmp_path / "starts.jsonl")
    assert [start["step"] for start in starts] == [0, 3]
    assert starts[0]["versions"]["torch"] == torch.__version__
    assert starts[0]["command"] == sys.argv
    assert [started["config"]["provenance"] for started in wandb.started] == starts


def test_git_state_is_that_of_the_repository(tmp_path):
    assert git_state(tmp_path) is None
    assert git_state(tmp_path / "nowhere") is None

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "-b", "trunk")
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("1")
    git("add", ".")
    assert git_state(tmp_path) is None  # no commit yet
    git("commit", "-m", "x")
    clean = {"commit": git("rev-parse", "HEAD"), "branch": "trunk", "changed": []}
    assert git_state(tmp_path) == clean
    (tmp_path / "b").write_text("2")
    (tmp_path / "untracked").write_text("2")
    assert git_state(tmp_path) == clean | {"changed": ["b"]}


def test_predictions_of_an_evaluation_go_to_wandb_as_a_table(tmp_path, wandb):
    folder = evaluation_folder(tmp_path, 2)
    folder.mkdir(parents=True)
    predictions = [
        {"id": f"q{i}", "question": "which?", "options": ["red", "blue"], "answer": "A", "predicted": None}
        for i in range(tracking.TABLE_ROWS + 1)
    ]
    append_rows(folder / "predictions.jsonl", predictions)
    with Tracker(tmp_path, 4, wandb=OFFLINE) as tracker:
        tracker.log_evaluation(2, {"accuracy": 0.5})
    ((step, sent),) = wandb.logged
    kind, columns, data = sent["eval/predictions"]
    assert (step, kind, len(data)) == (2, "table", tracking.TABLE_ROWS)
    first = dict(zip(columns, data[0], strict=True))
    assert first["id"] == "q0"
    assert first["options"] == "red; blue"
    assert first["predicted"] is None


def test_pictures_are_drawn_locally_and_sent_when_there_is_a_run(tmp_path, wandb):
    drawn = []

    def draw(path: Path) -> Path:
        drawn.append(path)
        return path

    for config in (None, OFFLINE):
        with Tracker(tmp_path, 4, wandb=config) as tracker:
            tracker.log_overlay(3, draw)
            tracker.log_overlay(4, lambda path: None)  # nothing was pruned
    with Tracker(tmp_path, 4, wandb=OFFLINE, enabled=False) as tracker:
        tracker.log_overlay(3, draw)
    picture = tmp_path / "overlays" / "step-0000003.png"
    assert drawn == [picture, picture]
    assert wandb.logged == [(3, {"kept_windows": ("image", str(picture))})]


def test_curves_are_drawn_at_the_end_and_now_and_then(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(tracking.time, "monotonic", lambda: now[0])
    picture = tmp_path / "curves.png"
    with Tracker(tmp_path, 4) as tracker:
        tracker.draw_curves(last=True)
        assert not picture.exists()  # no rows yet
        tracker.log([row(1, target_mean=0.2, churn=0.1)])
        tracker.draw_curves()
        assert not picture.exists()
        now[0] = 61.0
        tracker.draw_curves()
        assert picture.read_bytes().startswith(b"\x89PNG")
        picture.unlink()
        tracker.draw_curves()
        assert not picture.exists()
        append_rows(tmp_path / "eval.jsonl", [{"step": 1, "accuracy": 0.5}])
        tracker.draw_curves(last=True)
    assert picture.exists()


@pytest.mark.slow
def test_wandb_is_imported_only_when_asked_for_and_takes_rows_pictures_and_tables_for_real(tmp_path):
    folder = evaluation_folder(tmp_path, 1)
    folder.mkdir(parents=True)
    append_rows(
        folder / "predictions.jsonl", [{"id": "q", "options": ["a", "b"], "correct": True, "kept": 0.5}]
    )
    code = (
        "import sys; from pathlib import Path; from stts.train.tracking import Tracker; import numpy as np; "
        "from stts.train.run_config import WandbConfig; from stts.viz.overlay import draw_kept\n"
        "with Tracker(Path(sys.argv[1]), 1): pass\n"
        "assert 'wandb' not in sys.modules\n"
        "frames, keep = np.zeros((2, 6, 6, 3), 'uint8'), np.ones((2, 2, 2), bool)\n"
        "with Tracker(Path(sys.argv[1]), 1, wandb=WandbConfig(mode='offline')) as t:\n"
        "    t.log([dict(step=1, loss=1., aux_loss=0., kept=1., tokens_per_s=1., seconds=1.)])\n"
        "    t.log_overlay(1, lambda path: draw_kept(frames, {'a': keep}, path))\n"
        "    t.log_evaluation(1, {'accuracy': 1.0})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    assert list(run.glob("*.wandb"))
    sent = [path.relative_to(run / "files" / "media").parts[0] for path in run.rglob("media/**/*.*")]
    assert sorted(sent) == ["images", "table"]


def test_online_without_a_key_is_refused_before_anything_starts(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(ValueError, match=r"no API key .* WANDB_API_KEY .* wandb\.mode=offline"):
        WandbConfig(mode="online").check_ready()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    WandbConfig(mode="online").check_ready()
    (tmp_path / "netrc").write_text("machine elsewhere login user password secret\n")
    with pytest.raises(ValueError, match="no API key"):
        WandbConfig(mode="online").check_ready()
    (tmp_path / "netrc").write_text("nonsense\n")
    with pytest.raises(ValueError, match="cannot read"):
        WandbConfig(mode="online").check_ready()
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    WandbConfig(mode="online").check_ready()
    with pytest.raises(ValueError, match=r"wandb\.mode is 'on'"):
        WandbConfig(mode="on")
    WandbConfig(mode="offline").check_ready()


def test_a_scorer_in_trouble_is_announced_once(tmp_path, capsys):
    healthy, collapsed = {"score_mean": 0.4, "score_std": 0.1}, {"score_mean": 0.4, "score_std": 1e-5}
    saturated = {"score_mean": 1e-4, "score_std": 1e-4}
    with Tracker(tmp_path, 9) as tracker:
        for step, numbers in enumerate([healthy, collapsed, collapsed, healthy, saturated], 1):
            tracker.log([row(step, **numbers)])
    printed = capsys.readouterr().out
    assert printed.count("warning: at step 2 the scorer has collapsed") == 1
    assert "at step 3 the scorer" not in printed
    assert "recovered at step 4" in printed
    assert "at step 5 the scorer is saturated" in printed
