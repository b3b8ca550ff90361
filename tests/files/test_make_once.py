"""A folder that is made once: reused, replaced as a whole, never half there, never somebody else's."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from stts.files.make_once import MARKER, make_once


class Builder:
    """Writes its text and counts how often it had to."""

    def __init__(self, text: str, pause: float = 0.0) -> None:
        self.text, self.pause, self.calls = text, pause, 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        time.sleep(self.pause)
        (folder / "deep").mkdir()
        (folder / "deep" / "text").write_text(self.text)


def fail(folder: Path) -> None:
    (folder / "half").write_text("half")
    raise RuntimeError("disk full")


def test_builds_once_and_again_only_for_other_settings(tmp_path: Path) -> None:
    folder, builder = tmp_path / "a" / "b", Builder("first")
    assert make_once(folder, {"size": (1, 2)}, builder) == folder
    assert make_once(str(folder), {"size": [1, 2]}, builder) == folder  # JSON knows no tuples
    assert builder.calls == 1
    make_once(folder, {"size": [1, 3]}, Builder("second"))
    assert (folder / "deep" / "text").read_text() == "second"
    assert sorted(p.name for p in folder.iterdir()) == ["deep", MARKER]


def test_replaces_files_of_earlier_settings(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    make_once(folder, {"n": 1}, lambda partial: (partial / "old").write_text(""))
    make_once(folder, {"n": 2}, lambda partial: (partial / "new").write_text(""))
    assert sorted(p.name for p in folder.iterdir()) == [MARKER, "new"]


def test_builds_again_when_a_file_is_gone(tmp_path: Path) -> None:
    builder = Builder("x")
    folder = make_once(tmp_path / "a", {}, builder)
    (folder / "deep" / "text").unlink()
    make_once(folder, {}, builder)
    assert builder.calls == 2
    assert (folder / "deep" / "text").is_file()


def test_failure_leaves_nothing_new_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="disk full"):
        make_once(tmp_path / "a", {}, fail)
    assert [p.name for p in tmp_path.iterdir()] == [".a.lock"]
    folder = make_once(tmp_path / "a", {"n": 1}, Builder("kept"))
    with pytest.raises(RuntimeError, match="disk full"):
        make_once(folder, {"n": 2}, fail)
    assert (folder / "deep" / "text").read_text() == "kept"
    assert make_once(folder, {"n": 1}, fail) == folder  # still finished


def test_what_a_killed_run_left_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / ".a.partial").mkdir()
    (tmp_path / ".a.partial" / "stale").write_text("")
    folder = make_once(tmp_path / "a", {}, Builder("x"))
    assert sorted(p.name for p in folder.iterdir()) == ["deep", MARKER]


def test_never_deletes_what_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    make_once(tmp_path / "a", {"n": 1}, Builder("x"))  # an empty folder is nobody's
    (tmp_path / "a" / "notes").write_text("mine")
    with pytest.raises(ValueError, match="also holds notes"):
        make_once(tmp_path / "a", {"n": 2}, Builder("y"))
    assert make_once(tmp_path / "a", {"n": 1}, fail)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes").write_text("mine")
    with pytest.raises(ValueError, match="not generated"):
        make_once(tmp_path / "b", {}, Builder("x"))
    with pytest.raises(ValueError, match="is a file"):
        make_once(tmp_path / "b" / "notes", {}, Builder("x"))
    assert (tmp_path / "b" / "notes").read_text() == "mine"


@pytest.mark.parametrize("text", ["{", "[]", '{"settings": {}}', json.dumps({"files": []})])
def test_broken_marker_is_named(tmp_path: Path, text: str) -> None:
    folder = make_once(tmp_path / "a", {}, Builder("x"))
    (folder / MARKER).write_text(text)
    with pytest.raises(ValueError, match=MARKER):
        make_once(folder, {}, Builder("x"))


def test_callers_at_the_same_time_share_one_build(tmp_path: Path) -> None:
    builder, missing = Builder("x", pause=0.2), []

    def call() -> None:
        if not (make_once(tmp_path / "a", {}, builder) / "deep" / "text").is_file():
            missing.append(1)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (builder.calls, missing) == (1, [])
