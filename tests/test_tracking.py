from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stts.tracking import Tracker, keep_rows
from stts.train_config import WandbConfig


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


def test_rows_after_the_step_and_a_torn_line_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    keep_rows(path, 3)
    assert not path.exists()
    path.write_text("".join(json.dumps(row(step)) + "\n" for step in (1, 2, 3, 4)) + '{"step": 3, "lo')
    keep_rows(path, 3)
    assert [r["step"] for r in lines(path)] == [1, 2, 3]
    assert path.read_text().endswith("\n")


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


def test_wandb_gets_every_row_and_goes_on_with_the_same_run(tmp_path, monkeypatch):
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    config = WandbConfig(mode="offline", project="p")
    with Tracker(tmp_path, 4, wandb=config, settings={"prune_ratio": 0.5}) as tracker:
        tracker.log([row(1), row(2)])
        tracker.log_evaluation(2, {"accuracy": 0.5})
    with pytest.raises(KeyError), Tracker(tmp_path, 4, step=2, wandb=config):
        raise KeyError
    assert wandb.started[0]["id"] == wandb.started[1]["id"] == (tmp_path / "wandb_run_id.txt").read_text()
    assert wandb.started[0]["mode"] == "offline"
    assert wandb.started[0]["config"] == {"prune_ratio": 0.5}
    assert wandb.started[0]["name"] == tmp_path.name
    expected = {k: v for k, v in row(1).items() if v is not None}
    assert wandb.logged == [(1, expected), (2, expected | {"step": 2}), (2, {"eval/accuracy": 0.5})]
    assert wandb.exit_codes == [0, 1]


@pytest.mark.slow
def test_wandb_offline_writes_its_files_for_real(tmp_path):
    code = (
        "import sys; from pathlib import Path; from stts.tracking import Tracker; "
        "from stts.train_config import WandbConfig\n"
        "with Tracker(Path(sys.argv[1]), 1, wandb=WandbConfig(mode='offline')) as t:\n"
        "    t.log([dict(step=1, loss=1., aux_loss=0., kept=1., tokens_per_s=1., seconds=1.)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


def test_disabled_wandb_is_not_even_imported(tmp_path):
    code = (
        "import sys; from pathlib import Path; from stts.tracking import Tracker\n"
        "with Tracker(Path(sys.argv[1]), 1): pass\n"
        "assert 'wandb' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=120)


def test_online_without_a_key_is_refused_before_anything_starts(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(ValueError, match=r"no API key .* WANDB_API_KEY .* wandb\.mode=offline"):
        WandbConfig(mode="online")
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert WandbConfig(mode="online").mode == "online"
    (tmp_path / "netrc").write_text("machine elsewhere login user password secret\n")
    with pytest.raises(ValueError, match="no API key"):
        WandbConfig(mode="online")
    (tmp_path / "netrc").write_text("nonsense\n")
    with pytest.raises(ValueError, match="cannot read"):
        WandbConfig(mode="online")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert WandbConfig(mode="online").mode == "online"
    with pytest.raises(ValueError, match=r"wandb\.mode is 'on'"):
        WandbConfig(mode="on")


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
