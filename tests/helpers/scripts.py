"""Scripts run as from the command line: in this process, or by two."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from stts.settings.launch import launch

from .paths import ROOT


def run_script(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, *arguments: str) -> int:
    """scripts/<name>.py, started in a folder with these arguments. Returns its exit status."""
    spec = importlib.util.spec_from_file_location(f"{name}_script", ROOT / f"scripts/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    try:
        launch(module.main, name)
    except SystemExit as stop:
        return stop.code or 0
    return 0


def run_script_in_two_processes(folder: Path, kills: int, name: str, *arguments: str) -> str:
    """scripts/<name>.py by two processes, after so many kills (forked_pair.py). Returns what was said."""
    command = [sys.executable, str(ROOT / "tests/helpers/forked_pair.py"), str(kills), name, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
