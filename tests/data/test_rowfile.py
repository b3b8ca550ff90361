from __future__ import annotations

import json
import re
import tracemalloc

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from stts.data import DataSpec
from stts.data.rowfile import index_rows
from stts.data.rows import check_row
from stts.settings.launch import CONFIG_DIR
from tests.helpers.paths import ROOT


def fine(row):
    if row.get("wrong"):
        raise ValueError("it is wrong")


ids = st.lists(st.text(min_size=1, max_size=5), unique=True, min_size=1, max_size=12)


@settings(deadline=None)
@given(ids, st.data())
def test_rows_by_number_whatever_stands_between_them(tmp_path_factory, names, data):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    blank = st.sampled_from(["", "\n", " \n", "\r\n"])
    lines, where = "", []
    for name in names:
        lines += data.draw(blank)
        where.append(lines.count("\n") + 1)
        lines += json.dumps({"id": name}, ensure_ascii=data.draw(st.booleans())) + data.draw(
            st.sampled_from(["\n", "\r\n", " \n"])
        )
    path.write_bytes((lines if data.draw(st.booleans()) else lines.rstrip()).encode())
    rows = index_rows(path, fine)
    assert [row["id"] for row in rows] == names
    assert rows.lines.tolist() == where
    assert rows[-1]["id"] == names[-1]
    assert len(rows) == len(names)


def test_only_where_rows_begin_is_in_memory(tmp_path):
    path = tmp_path / "large.jsonl"
    with path.open("w") as file:
        for i in range(4000):
            file.write(json.dumps({"id": i, "text": "x" * 2000}) + "\n")
    tracemalloc.start()
    rows = index_rows(path, fine)
    used, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 8e6
    assert used < 2e5
    assert peak < 1e6
    assert rows[3999] == {"id": 3999, "text": "x" * 2000}
    with pytest.raises(IndexError):
        rows[4000]


def test_with_a_report_the_rest_is_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 1}\n{oops\n{"id": 2, "wrong": true}\n[3]\n{"id": "1"}\n{"id": 4}\n')
    found = []
    rows = index_rows(path, fine, found.append)
    assert [row["id"] for row in rows] == [1, 4]
    assert [str(error).split("rows.jsonl:")[1][0] for error in found] == ["2", "3", "4", "5"]
    for part, error in zip(
        ("not valid JSON", "(id 2): it is wrong", "is a list", "line 1"), found, strict=True
    ):
        assert part in str(error)
    path.write_text("\n\n")
    assert len(index_rows(path, fine, found.append)) == 0
    assert "holds no examples" in str(found[-1])


def test_a_file_that_shrank_meanwhile_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 1}\n{"id": 2}\n')
    rows = index_rows(path, fine)
    path.write_text('{"id": 1}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl:2: not valid JSON"):
        rows[1]


def test_the_rows_and_the_mixture_of_the_documentation():
    text = (ROOT / "docs" / "data.md").read_text()
    rows = [json.loads(line) for line in text.splitlines() if line.startswith('{"id"')]
    assert len(rows) == 4
    for row in rows:
        check_row(row)
    mixture = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, flags=re.DOTALL)[1])
    spec = DataSpec.from_dict(mixture)
    assert {name: part.weight for name, part in spec.datasets.items()} == {"own": 1, "llava": 3}
    train = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "train.yaml"))["train"]
    assert set(re.findall(r"train\.(?!py\b|jsonl\b)(\w+)", text)) <= set(train)
