from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from stts.files import durable
from stts.files.durable import (
    append_rows,
    keep_rows,
    read_rows,
    remove_folder,
    remove_leftovers,
    whole_folder,
    write_whole,
)
from tests.helpers.kills import killed_at


def write_folder(folder: Path, text: str) -> None:
    with whole_folder(folder) as partial:
        for name in ("a", "b"):
            (partial / name).write_text(text)


def test_a_folder_replaces_the_old_one_only_when_complete(tmp_path):
    folder = tmp_path / "model"
    with whole_folder(folder) as partial:
        (partial / "a").write_text("1")
        assert not folder.exists()
    (tmp_path / ".model.partial").mkdir()  # as a killed process would leave it
    (tmp_path / ".model.partial" / "junk").write_text("x")
    with whole_folder(folder) as partial:
        (partial / "b").write_text("2")
        assert (folder / "a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert [path.name for path in folder.iterdir()] == ["b"]


def test_an_error_leaves_the_old_folder(tmp_path):
    write_folder(tmp_path / "model", "old")
    with pytest.raises(OSError, match="full"), whole_folder(tmp_path / "model") as partial:  # noqa: PT012
        (partial / "a").write_text("new")
        raise OSError("disk full")
    assert (tmp_path / "model" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_all_is_on_disk_before_it_takes_its_name_and_the_name_after(tmp_path, monkeypatch):
    done: list[str] = []
    rename, replace = Path.rename, Path.replace
    monkeypatch.setattr(durable, "flush", lambda path: done.append(f"flush {path.name}"))
    monkeypatch.setattr(
        Path, "rename", lambda a, b: (done.append(f"rename {a.name} {b.name}"), rename(a, b))[1]
    )
    monkeypatch.setattr(
        Path, "replace", lambda a, b: (done.append(f"replace {a.name} {b.name}"), replace(a, b))[1]
    )
    write_folder(tmp_path / "f", "1")
    assert sorted(done[:2]) == ["flush a", "flush b"]
    assert done[2:] == [
        "flush .f.partial",
        "rename .f.partial f",
        f"flush {tmp_path.name}",
        f"flush {tmp_path.parent.name}",
    ]
    done.clear()
    write_whole(tmp_path / "t", "1")
    partial = f".t.{os.getpid()}.partial"
    assert done == [f"flush {partial}", f"replace {partial} t", f"flush {tmp_path.name}"]


def test_flush_really_syncs(tmp_path, monkeypatch):
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    (tmp_path / "a").write_text("1")
    durable.flush(tmp_path / "a")
    durable.flush(tmp_path)
    append_rows(tmp_path / "rows", [{"step": 1}])
    assert synced == [path.stat().st_ino for path in (tmp_path / "a", tmp_path, tmp_path / "rows")]


@pytest.mark.parametrize("write", [write_folder, write_whole], ids=["folder", "file"])
def test_killed_at_any_file_operation_there_is_the_old_or_the_new(tmp_path, write):
    """A folder that replaces another may be gone for a moment between two renames, but is never half there."""
    seen = set()
    for count in range(1, 60):
        path = tmp_path / str(count) / "x"
        path.parent.mkdir()
        write(path, "old")
        code = killed_at(count, path.parent, lambda path=path: write(path, "new"))
        parts = sorted(path.iterdir()) if path.is_dir() else [path] if path.exists() else []
        texts = [part.read_text() for part in parts]
        assert len(set(texts)) == 1 or (not texts and write is write_folder)
        assert len(texts) in ((1,) if write is write_whole else (0, 2))
        seen.add(texts[0] if texts else "nothing")
        remove_leftovers(path.parent)
        assert {p.name for p in path.parent.iterdir()} <= {"x"}
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert {"old", "new"} <= seen
    assert texts[0] == "new"


def test_a_folder_that_is_removed_is_never_half_there(tmp_path):
    for count in range(1, 30):
        folder = tmp_path / str(count) / "x"
        folder.parent.mkdir()
        write_folder(folder, "1")
        code = killed_at(count, folder.parent, lambda folder=folder: remove_folder(folder))
        assert not folder.exists() or len(list(folder.iterdir())) == 2
        if code == 0:
            break
    assert code == 0
    assert count > 3
    assert list(folder.parent.iterdir()) == []


def test_leftovers_go_and_nothing_else_does(tmp_path):
    names = (".a.partial", ".b.old", "c.partial", ".hidden", "d", ".folder.partial")
    for name in names[:-1]:
        (tmp_path / name).write_text("x")
    (tmp_path / ".folder.partial").mkdir()
    (tmp_path / ".folder.partial" / "x").write_text("x")
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "c.partial", "d"]
    remove_leftovers(tmp_path / "nowhere")


def row(step: int) -> dict:
    return {"step": step, "loss": 1 / (3 + step), "churn": None}


def test_rows_after_the_step_and_a_torn_line_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    keep_rows(path, 3)
    assert not path.exists()
    append_rows(path, map(row, (1, 2)))
    append_rows(path, map(row, (3, 4)))
    with path.open("a") as file:
        file.write('{"step": 3, "lo')
    keep_rows(path, 3)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [row(1), row(2), row(3)]
    assert path.read_text().endswith("\n")


@pytest.mark.parametrize("torn", ['{"step": 2', '{"step": 2}', "7\n", "\0\0\0\n", "\xff"])
def test_reading_stops_at_the_first_line_that_is_no_whole_row(tmp_path, torn):
    path = tmp_path / "rows.jsonl"
    append_rows(path, [row(1)])
    with path.open("a", encoding="latin-1") as file:
        file.write(torn)
    assert read_rows(path) == [row(1)]
    assert read_rows(tmp_path / "none") == []
