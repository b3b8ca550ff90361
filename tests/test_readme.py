"""The README's snippets and commands, run as they stand."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from stts.cli import CONFIG_DIR

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines()
    if line.startswith("python scripts/")
]
CLIPS = "data.num_train=4 data.num_test=1 data.folder=clips"
SMALL = f"{CLIPS} train.max_steps=2 train.batch_size=2 train.num_workers=0"


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippet_runs(snippet, clips, tmp_path):
    video = next((clips / "videos").glob("*.mp4"))
    (tmp_path / "clip.mp4").write_bytes(video.read_bytes())
    done = run([sys.executable, "-c", snippet], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.slow
def test_train_and_evaluate_commands_run_in_turn(tmp_path):
    train, evaluate, videomme = COMMANDS

    def script(command: str, more: str = "") -> subprocess.CompletedProcess:
        name, *arguments = shlex.split(command)[1:]
        return run([sys.executable, str(ROOT / name), *arguments, *shlex.split(more)], tmp_path)

    done = script(train, SMALL)
    assert done.returncode == 0, done.stderr
    done = script(evaluate, CLIPS)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("outputs/eval/**/results.json"))
    done = script(videomme)
    assert done.returncode == 2
    assert "videomme" in done.stderr


def test_files_that_the_readme_names_exist():
    for name in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`(tests/\w+\.py)`", README):
        assert (ROOT / name).exists(), name
    assert CONFIG_DIR == ROOT / "configs"
