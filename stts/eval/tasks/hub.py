"""Annotation files from the Hugging Face Hub: fetched at a commit, and of which commit those are that are there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from .benchmark import TableBenchmark


def at_revision(spec: TableBenchmark) -> str:
    """The repository as hf download takes it."""
    pinned = f" --revision {spec.revision}" if spec.revision else ""
    return f"{spec.repo} --repo-type dataset{pinned}"


def fetch(spec: TableBenchmark, paths: Sequence[Path]) -> str:
    """Download the files of these paths that are missing below data_root, where repo and revision say from where.

    Returns why the Hub did not give one of them; empty when it did, or when none is missing or pinned.
    """
    if not (spec.repo and spec.revision):
        return ""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    root = Path(spec.data_root)
    for path in (path for path in paths if not path.is_file()):
        name = path.relative_to(root).as_posix()
        try:
            hf_hub_download(spec.repo, name, repo_type="dataset", revision=spec.revision, local_dir=root)
        except (HfHubHTTPError, OSError) as error:  # not there, gated, offline
            reason = str(error).strip().splitlines()[0]
            return f"{name} cannot be fetched from {spec.repo} at {spec.revision}: {reason}"
    return ""


def revision_of(spec: TableBenchmark, paths: Sequence[Path]) -> str | None:
    """The commit that the files at these paths were downloaded from, None where that is not known of all of them.

    Raises ValueError, naming a file, where it is known and another than spec.revision.
    """
    commits = {path: _commit_of(Path(spec.data_root), path) for path in paths}
    for path, commit in commits.items():
        if spec.revision and commit not in (None, spec.revision):
            raise ValueError(
                f"{path} was downloaded at commit {commit}, benchmark.revision is {spec.revision}: remove the file "
                f"to have it fetched at that, or set benchmark.revision={commit}"
            )
    known = set(commits.values())
    return known.pop() if len(known) == 1 else None


def _commit_of(root: Path, path: Path) -> str | None:
    """As huggingface_hub tells it: in the path of a snapshot in its cache, or beside what it put into a local folder,
    where a note holds commit, etag and seconds since 1970."""
    if snapshot := re.search(r"/snapshots/([0-9a-f]{40})(?:/|$)", root.resolve().as_posix()):
        return snapshot[1]
    note = root / ".cache/huggingface/download" / f"{path.relative_to(root)}.metadata"
    try:
        commit, _, noted = note.read_text(encoding="utf-8").split()[:3]
        changed = path.stat().st_mtime > float(noted) + 1  # a file system may round a second
    except (OSError, ValueError):  # downloaded by other means
        return None
    return None if changed else commit
