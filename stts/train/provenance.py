"""What a run was started from: code, versions, machine."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("stts", "torch", "transformers", "accelerate", "av")


def run_provenance() -> dict[str, Any]:
    """Time, command, git state of the code (None outside a repository), versions and host, as JSON values."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(sys.argv),
        "git": git_state(Path(__file__).parent),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "host": platform.node(),
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the repository a folder is in, its branch, and the files that differ from it.

    None where there is no git, no repository, or no commit in it yet.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = (_git(folder, "status", "--porcelain", "--untracked-files=no") or "").splitlines()
    return {
        "commit": commit.strip(),
        "branch": (_git(folder, "branch", "--show-current") or "").strip(),
        "changed": [line[3:] for line in changed],
    }


def _git(folder: Path, *arguments: str) -> str | None:
    """What a git command prints; None when it fails or git is not there."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
