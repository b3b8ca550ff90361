"""Annotation files from the Hugging Face Hub, at a commit that never changes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .base import BenchmarkSpec


def at_revision(spec: BenchmarkSpec) -> str:
    """The repository as hf download takes it."""
    pinned = f" --revision {spec.revision}" if spec.revision else ""
    return f"{spec.repo} --repo-type dataset{pinned}"


def fetch(spec: BenchmarkSpec, paths: Sequence[Path]) -> None:
    """Download the files of these paths that are missing below data_root, where repo and revision say from where.

    Raises ValueError, naming the file, when the Hub does not give it.
    """
    if not (spec.repo and spec.revision):
        return
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    root = Path(spec.data_root)
    for path in (path for path in paths if not path.is_file()):
        name = path.relative_to(root).as_posix()
        try:
            hf_hub_download(spec.repo, name, repo_type="dataset", revision=spec.revision, local_dir=root)
        except (HfHubHTTPError, OSError) as error:  # not there, gated, offline
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"{name} cannot be fetched from {spec.repo} at {spec.revision}: {reason}\n"
                f"download it yourself into {root}, or set benchmark.revision=null"
            ) from error
