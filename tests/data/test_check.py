from __future__ import annotations

import json
import runpy
import sys
from itertools import islice

import pytest
from rich.console import Console

from stts import STTSConfig
from stts.data import Collator, DataSpec, JsonlData, training_data
from stts.data.check import check_data, measure_epoch
from stts.data.check_report import print_context, print_epoch, print_problems, print_sizes
from stts.data.feed.budget import Budget
from stts.data.feed.feed import Feed, FeedSpec
from stts.data.video.config import VideoConfig
from stts.hosts.folders import ModelSpec
from stts.hosts.load import load_processor
from tests.helpers.paths import ROOT

VIDEO = VideoConfig(4)


@pytest.fixture(scope="module")
def processor(tiny_folder):
    return load_processor(ModelSpec(str(tiny_folder)), STTSConfig())


@pytest.fixture
def mixed(clips, tmp_path):
    """Two files: the clips, and rows with every kind of mistake among three good ones."""
    (tmp_path / "broken.mp4").write_text("no video")
    rows = [json.loads(line) for line in (clips / "train.jsonl").read_text().splitlines()][:3]
    for row in rows:
        (tmp_path / row["video"]).parent.mkdir(exist_ok=True)
        (tmp_path / row["video"]).write_bytes((clips / row["video"]).read_bytes())
    special = [{"role": "user", "content": "What is <im_patch>?"}, {"role": "assistant", "content": "A."}]
    lines = [
        json.dumps(rows[0]),
        "{not json",
        json.dumps(rows[1] | {"id": "broken", "video": "broken.mp4"}),
        json.dumps(rows[1] | {"id": "gone", "video": "gone.mp4"}),
        json.dumps(rows[1] | {"id": "out", "video": "../gone.mp4"}),
        json.dumps(rows[1] | {"messages": rows[1]["messages"][:2]}),
        json.dumps(rows[2] | {"id": rows[0]["id"]}),
        json.dumps(rows[2] | {"id": "special", "messages": special}),
        json.dumps({"id": "text", "video": None, "messages": rows[2]["messages"][:2]}),
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return DataSpec.from_dict(
        {
            "name": "mixture",
            "datasets": {
                "whole": {"name": "jsonl", "annotations": str(clips / "train.jsonl"), "weight": 1},
                "holes": {"name": "jsonl", "annotations": str(tmp_path / "rows.jsonl"), "weight": 3},
            },
            "decode_timeout": 60,
        }
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_every_mistake_is_found_and_named_by_file_and_line(mixed, processor, workers):
    findings, _ = check_data(mixed, processor, STTSConfig(), VIDEO, workers)
    found = {}
    for text in findings.wrong:
        line, _, reason = text.split("rows.jsonl:", 1)[1].partition(" " if "not valid" not in text else ":")
        found[int(line.rstrip(":"))] = reason
    assert sorted(found) == [2, 3, 4, 5, 7, 8]
    for line, reason in (
        (2, "not valid JSON"),
        (3, "is not a video"),
        (4, "no such file"),
        (5, "without '..'"),
    ):
        assert reason in found[line]
    assert "was used in line 1 already" in found[7]
    assert "special token '<im_patch>'" in found[8]
    assert findings.num_rows == 6 + 9
    assert len(findings.measured) == 6 + 3


def test_sizes_are_those_of_training(mixed, clips, processor):
    spec = JsonlData(str(clips / "train.jsonl"))
    for decode in (False, True):
        findings, order = check_data(spec, processor, STTSConfig(prune_ratio=0.5), VIDEO, 0, decode=decode)
        data, collate = training_data(spec, processor, VIDEO), Collator(0, 0.5)
        for i in range(len(data)):
            example, measured = data[i], findings.measured[i]
            assert measured.size == collate.size(example)
            assert measured.tokens == len(example["input_ids"])
            assert measured.supervised == (example["labels"][1:] >= 0).sum()
        assert order.num_examples == len(data)


@pytest.mark.parametrize(("batch_size", "buffer"), [(2, 0), (1, 3), (2, 5)])
def test_an_epoch_is_as_long_as_training_finds_it(clips, processor, batch_size, buffer):
    spec = JsonlData(str(clips / "train.jsonl"))
    findings, order = check_data(spec, processor, STTSConfig(), VIDEO, 0)
    longest = max(measured.size.tokens for measured in findings.measured.values())
    budget = Budget(2 * longest, None)
    epoch = measure_epoch(findings, order, budget, batch_size, buffer)
    assert (epoch.examples, epoch.too_long) == (6, 0)
    assert epoch.tokens == sum(m.size.tokens for m in findings.measured.values())
    assert epoch.frames == sum(m.size.frames for m in findings.measured.values())
    data = training_data(spec, processor, VIDEO)
    feed = Feed(data, Collator(0, 0.5, budget.tokens), FeedSpec(batch_size, 0, buffer))
    drawn = 0
    for batch in islice(feed, epoch.batches - (1 if buffer else 0)):
        drawn = batch["place"].drawn - len(batch["place"].waiting)
    assert drawn <= 6 + (batch_size if buffer else 0)
    assert drawn >= 6 - 2 * batch_size
    assert measure_epoch(findings, order, Budget(longest - 1), batch_size, buffer).too_long >= 1


def test_a_sample_stands_for_the_whole(clips, processor):
    spec = JsonlData(str(clips / "train.jsonl"))
    findings, order = check_data(spec, processor, STTSConfig(), VIDEO, 0, limit=3)
    assert len(findings.measured) == 3
    epoch = measure_epoch(findings, order, Budget(), 2, 0)
    assert epoch.examples == 6
    assert epoch.tokens == pytest.approx(2 * sum(m.size.tokens for m in findings.measured.values()))


def test_the_report(mixed, processor):
    findings, order = check_data(mixed, processor, STTSConfig(), VIDEO, 0)
    console = Console(width=200, record=True, quiet=False)
    assert not print_problems(console, findings, 0.01)
    assert print_problems(console, findings, 0.5)
    print_sizes(console, findings, 0.5)
    budget = Budget(1000, 16)
    print_epoch(console, measure_epoch(findings, order, budget, 2, 4), budget, 2, True, False)
    text = console.export_text()
    for part in ("15 rows", "6 wrong", "tokens at prune_ratio=0.5", "median", "an epoch: ", "of the frames"):
        assert part in text


def test_keys_that_nobody_reads_are_told_but_not_wrong(tmp_path, processor):
    row = {"id": 1, "video": None, "question": "What?", "answer": "A cat."}
    rows = [row | {"strat": 1}, row | {"id": 2, "strat": 2}, row | {"id": 3, "images": ["x.png"]}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    findings, _ = check_data(JsonlData(str(tmp_path / "rows.jsonl")), processor, STTSConfig(), VIDEO, 0)
    console = Console(width=200, record=True, quiet=False)
    assert not print_problems(console, findings, 0.0)
    text = console.export_text()
    assert "rows.jsonl: nobody reads the key 'strat' (did you mean 'start'?): 2 rows" in text
    assert "rows.jsonl:3 (id 3): images is" in text
    assert "3 rows, 3 looked at, 1 wrong" in text


@pytest.mark.parametrize("position_ids", ["original", "compact"])
def test_the_report_names_examples_past_the_models_context(clips, processor, position_ids):
    spec = JsonlData(str(clips / "train.jsonl"))
    findings, _ = check_data(spec, processor, STTSConfig(), VIDEO, 0)
    lengths = [m.tokens if position_ids == "original" else m.size.tokens for m in findings.measured.values()]
    console = Console(width=200, record=True, quiet=False)
    print_context(console, findings, max(lengths), position_ids)
    print_context(console, findings, None, position_ids)
    assert not console.export_text()
    print_context(console, findings, min(lengths), position_ids)
    longer = sum(length > min(lengths) for length in lengths)
    text = console.export_text()
    assert f"{longer} of 6 examples are too long for the model" in text
    assert f"4 frames, {max(m.size.tokens for m in findings.measured.values()):,} after pruning" in text


def test_the_processor_knows_the_context_and_does_not_cry_before_pruning(tiny_folder, processor, caplog):
    assert (
        processor.context_length
        == json.loads((tiny_folder / "config.json").read_text())["text_config"]["max_position_embeddings"]
    )
    text = [{"role": "user", "content": "hello " * (processor.context_length + 1)}]
    assert len(processor.prompt_tensors(text, None, True)["input_ids"]) > processor.context_length
    assert "indexing errors" not in caplog.text


def test_the_script_tells_and_exits_with_1(clips, mixed, tmp_path, monkeypatch, capsys):
    rows, script = mixed.datasets["holes"].annotations, ROOT / "scripts/check_data.py"
    arguments = ["data=jsonl", f"data.annotations={rows}", "frames=4", "train.num_workers=0"]
    monkeypatch.setattr(sys, "argv", [str(script), *arguments, f"check.output={tmp_path / 'wrong.txt'}"])
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(script), run_name="__main__")
    told = capsys.readouterr()
    assert stop.value.code == 1, told.err
    assert "9 rows" in told.out
    assert "an epoch: " in told.out
    wrong = (tmp_path / "wrong.txt").read_text().splitlines()
    assert len(wrong) == 6
    assert f"{rows}:2: not valid JSON" in wrong[0]
