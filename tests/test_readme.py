"""The README's snippets and commands, run as they stand."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from stts.hosts.tiny_qwen3_vl import make_tiny_qwen3_vl
from stts.settings.launch import CONFIG_DIR, launch
from tests.helpers.paths import ROOT

README = (ROOT / "README.md").read_text()
DOCS = sorted((ROOT / "docs").glob("*.md"))
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines()
    if line.startswith("python scripts/")
]
CLIPS = "data.num_train=4 data.num_test=1 data.folder=clips"
SMALL = f"{CLIPS} train.max_steps=2 train.batch_size=2 train.num_workers=0"


@pytest.mark.slow
@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippet_runs(snippet, clips, tmp_path, monkeypatch, capsys):
    tiny = make_tiny_qwen3_vl(tmp_path / "qwen3_vl", 0)
    snippet = snippet.replace('"Qwen/Qwen3-VL-4B-Instruct"', repr(str(tiny)))
    video = next((clips / "videos").glob("*.mp4"))
    (tmp_path / "clip.mp4").write_bytes(video.read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "README.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out


def run(monkeypatch, command: str, more: str = "") -> int:
    """A command of the README in this process; its exit status."""
    name, *arguments = shlex.split(f"{command} {more}")[1:]
    spec = importlib.util.spec_from_file_location(f"{Path(name).stem}_script", ROOT / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    try:
        launch(module.main, Path(name).stem)
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.mark.slow
def test_train_and_evaluate_commands_run_in_turn(tmp_path, monkeypatch, capsys):
    train, evaluate, videomme, own = COMMANDS
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, train, SMALL) == 0
    assert run(monkeypatch, evaluate, CLIPS) == 0
    assert list(tmp_path.glob("outputs/eval/synthetic/**/results.json"))
    capsys.readouterr()
    assert run(monkeypatch, videomme) == 2
    assert "videomme" in capsys.readouterr().err

    (trained,) = tmp_path.glob("outputs/train/*")
    os.symlink(trained.name, tmp_path / "outputs/train/RUN")
    shutil.copy("clips/test.jsonl", "test.jsonl")
    shutil.copytree("clips/videos", "videos/videos")  # rows name videos/test_00000.mp4
    assert run(monkeypatch, own) == 0
    assert list(tmp_path.glob("outputs/eval/jsonl/RUN-*/results.json"))
    assert (
        capsys.readouterr().out.splitlines()[-1].startswith("next: python scripts/visualize.py checkpoint=")
    )


def test_the_walks_of_contributing_name_what_is_there():
    walks = (ROOT / "CONTRIBUTING.md").read_text().split("## Three walks")[1]
    for walk in walks.split(":\n\n1. ")[1:]:
        lines = [line for line in f"1. {walk}".splitlines() if re.match(r"\d+\. ", line)]
        assert 5 <= len(lines) <= 10
        for line in lines:
            for name, told in re.findall(r"`([\w/]+\.py)`:([^;]*(?:;(?! `[\w/]+\.py)[^;]*)*)", line):
                words = set(re.findall(r"\w+", (ROOT / name).read_text()))
                assert set(re.findall(r"`(\w+)`", told)) <= words, line


def test_status_cells_are_short():
    rows = [
        line.split("|")[1:-1] for line in README.split("## Status")[1].splitlines() if line.startswith("|")
    ]
    for what, state in rows:
        assert len(re.sub(r"\]\([^)]*\)", "", state).split()) <= 25, what


def test_files_that_the_readme_names_exist():
    for name in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / name).exists(), name
    for text in (README, (ROOT / "CONTRIBUTING.md").read_text(), *(path.read_text() for path in DOCS)):
        for name in re.findall(r"`((?:tests|stts|scripts|benchmarks|configs)/[\w/]+\.(?:py|yaml))", text):
            if Path(name).stem != "NAME" and name != "configs/data/mine.yaml":
                assert (ROOT / name).exists(), name
    for path in DOCS:
        for name in re.findall(r"\]\((?!http)([^)#]+)\)", path.read_text()):
            assert (path.parent / name).exists(), (path.name, name)
    assert CONFIG_DIR == ROOT / "configs"
