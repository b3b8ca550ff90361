from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from stts.eval.records import write_json
from stts.eval.report.examples import draw_examples
from stts.eval.report.html import Example, make_sections, overview, render_html, render_markdown
from stts.eval.report.runs import find_runs, name_runs
from stts.eval.summary import summarize
from stts.settings.config_files import documented_keys
from stts.settings.launch import CONFIG_DIR
from tests.helpers.scripts import run_script

NASTY = '<script>alert("x")</script> & | *b*'


def write_run(
    folder: Path, right: list[bool], benchmark="b", category="c", predicted=True, **settings
) -> Path:
    """A finished evaluation as the runner leaves it: question i is about video i // 2."""
    records = [
        {
            "id": f"q{i:03d}",
            "category": category if i % 3 else "other",
            "groups": {},
            "video": f"/videos/v{i // 2}.mp4",
            "start": None,
            "end": None,
            "question": "What?",
            "options": ["yes", "no"],
            "answer": "A",
            "predicted": ("A" if ok else "B") if predicted else None,
            "correct": ok,
            "frames": 8,
            "span": 4.0,
            "kept": 0.5,
            "evidence_recall": None,
            "error": None,
            "seconds": 0.25,
        }
        for i, ok in enumerate(right)
    ]
    folder.mkdir(parents=True)
    (folder / "predictions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    settings = {"benchmark": benchmark, "policy": "scorer", "prune_ratio": 0.5, "frames": 8} | settings
    write_json(folder / "results.json", summarize(records, settings))
    return folder


class Page(HTMLParser):
    """What a browser would load and show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.links, self.texts, self.tables = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for key, value in attributes if key in ("src", "href", "srcset", "action")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_data(self, data):
        self.texts.append(data)
        if data.strip() and self.tables and self.tables[-1] and self.tables[-1][-1]:
            cells = self.tables[-1][-1]
            cells[-1] = " ".join([*cells[-1].split(), *data.split()])


def half(n: int) -> list[bool]:
    return [i % 2 == 0 for i in range(n)]


def test_runs_are_found_below_folders_once_and_in_order(tmp_path, caplog):
    write_run(tmp_path / "a" / "pruned", half(8))
    write_run(tmp_path / "a" / "whole", half(8), policy="none", prune_ratio=0.0)
    write_run(tmp_path / "a" / "long", half(8), frames=16)
    unfinished = write_run(tmp_path / "a" / "unfinished", half(8))
    (unfinished / "results.json").unlink()
    runs = find_runs([tmp_path / "a" / "long", tmp_path / "a"])
    assert [run.folder.name for run in runs] == ["long", "whole", "pruned"]
    assert "unfinished is not finished" in caplog.text
    assert name_runs(runs) == ["scorer 50%, 16 frames", "whole, 8 frames", "scorer 50%, 8 frames"]


def test_names_tell_what_differs_and_no_more(tmp_path):
    shared = {"seed": 0, "mode": "logits", "weights": "1"}
    write_run(tmp_path / "a", half(4), **shared | {"checkpoint": "out/one/model"})
    write_run(tmp_path / "b", half(4), **shared | {"checkpoint": "out/two/model", "weights": "2"})
    assert name_runs(find_runs([tmp_path])) == [
        "scorer 50%, 8 frames, checkpoint one",
        "scorer 50%, 8 frames, checkpoint two",
    ]
    write_run(tmp_path / "c", half(4), **shared | {"checkpoint": "out/two/model"})
    names = name_runs(find_runs([tmp_path]))
    assert len(set(names)) == 3
    assert names[2].endswith(str(tmp_path / "c"))


def test_what_belongs_to_a_benchmark_tells_no_runs_apart(tmp_path):
    """A run over several benchmarks has one name, whatever these are asked with: one row of the overview."""
    for name, subtitles in (("plain", False), ("said", True)):
        edition = {"subtitles": subtitles, "repo": name, "revision": name, "seed": 0}
        write_run(tmp_path / name, half(4), benchmark=name, **edition)
    assert set(name_runs(find_runs([tmp_path]))) == {"scorer 50%, 8 frames"}
    write_run(tmp_path / "silent", half(4), benchmark="said", **edition | {"subtitles": False})
    names = name_runs(find_runs([tmp_path / "said", tmp_path / "silent", tmp_path / "plain"]))
    silent = "scorer 50%, 8 frames, subtitles False"
    assert names == ["scorer 50%, 8 frames, subtitles True", silent, silent]


def test_differences_are_paired_and_need_the_same_questions(tmp_path):
    before, after = half(20), [True] * 12 + half(8)
    write_run(tmp_path / "before", before, policy="none", prune_ratio=0.0)
    write_run(tmp_path / "after", after)
    write_run(tmp_path / "other", half(6), frames=16)
    whole, pruned, other = find_runs([tmp_path])
    found = pruned.compared_with(whole)
    assert found.value == pytest.approx(6 / 20)
    assert found.p == pytest.approx(2 * 0.5**6)  # six questions, all one way
    assert 0 < found.low < 0.3 < found.high < 1
    assert other.compared_with(whole) is None
    (section,) = make_sections([pruned, whole, other], ["p", "w", "o"])
    assert section.reference == "w"
    assert [line.difference is None for line in section.lines] == [False, True, True]


def test_page_needs_nothing_and_shows_every_number(tmp_path):
    write_run(tmp_path / "whole", [True] * 15 + [False] * 5, policy="none", prune_ratio=0.0)
    write_run(tmp_path / "pruned", half(20))
    runs = find_runs([tmp_path])
    text = render_html(make_sections(runs, name_runs(runs)), [], "Report")
    page = Page(text)
    assert "script" not in page.tags
    assert page.links == []
    assert "url(" not in text
    assert "@import" not in text
    rows = {row[0]: row for row in page.tables[0]}
    assert "75.0 %" in rows["whole, 8 frames"][1]
    assert rows["whole, 8 frames"][3] == "\N{EN DASH}"
    assert "\N{MINUS SIGN}25.0" in rows["scorer 50%, 8 frames"][3]
    low, high = runs[1].results["interval"]
    assert f"[{100 * low:.1f}, {100 * high:.1f}]" in rows["scorer 50%, 8 frames"][1]
    by_category = {row[0]: row for row in page.tables[1]}
    whole = [True] * 15 + [False] * 5
    share = np.mean([ok for i, ok in enumerate(whole) if i % 3 == 0])
    assert f"{100 * share:.1f} %" in by_category["other"][2]
    assert by_category["other"][1] == "7"


def test_text_from_data_stays_text(tmp_path):
    write_run(tmp_path / "a", half(6), benchmark=NASTY, category=NASTY)
    write_run(tmp_path / "b", half(6), benchmark=NASTY, checkpoint=NASTY, policy=NASTY)
    runs = find_runs([tmp_path])
    sections = make_sections(runs, [NASTY, NASTY + "2"])
    example = Example(NASTY, NASTY, (NASTY, "no"), NASTY, ((NASTY, NASTY, True),), (b"\x89PNG",))
    text = render_html(sections, [example], NASTY)
    page = Page(text)
    assert "script" not in page.tags
    assert page.links == ["data:image/png;base64,iVBORw=="]
    assert "<script" not in text
    assert any(NASTY in shown for shown in page.texts)
    table = render_markdown(sections, NASTY)
    assert "<script" not in table
    widths = {line.count("|") - line.count("\\|") for line in table.splitlines() if line.startswith("| ")}
    assert widths <= {7, 4}  # six columns, and three by category


def test_missing_benchmarks_and_values_are_dashes(tmp_path):
    write_run(tmp_path / "one" / "a", half(6), benchmark="one")
    write_run(tmp_path / "one" / "b", half(6), benchmark="one", policy="random")
    write_run(tmp_path / "two" / "a", [True] * 6, benchmark="two", predicted=False)
    runs = find_runs([tmp_path])
    sections = make_sections(runs, name_runs(runs))
    assert [section.benchmark for section in sections] == ["one", "two"]
    rows = overview(sections)
    assert rows["random 50%, 8 frames"][1:] == [None, None]
    assert rows["scorer 50%, 8 frames"][2] == pytest.approx((0.5 + 1) / 2)
    page = Page(render_html(sections, [], "r"))
    (row,) = [row for row in page.tables[0] if row[0].startswith("random")]
    assert row[2:] == ["\N{EN DASH}"] * 2
    assert "unparsed" in page.tables[1][0]
    assert "evidence kept" not in page.tables[1][0]
    assert page.links == ["#b1", "#b2"]


def test_runs_that_recorded_no_masks_are_named(tmp_path):
    write_run(tmp_path / "a", half(4))
    write_run(tmp_path / "b", half(4), policy="random")
    runs = find_runs([tmp_path])
    (section,) = make_sections(runs, name_runs(runs))
    (example,) = draw_examples(section, 1)
    assert (example.pngs, example.answer) == ((), "yes")
    assert example.not_drawn == tuple(name_runs(runs))
    page = Page(render_html([section], [example], "r"))
    (told,) = [text for text in page.texts if "Not drawn" in text]
    assert "; ".join(name_runs(runs)) in told
    assert page.links == []


def test_bad_questions_have_a_column_of_their_own(tmp_path):
    folder = write_run(tmp_path / "a", half(4))
    results = json.loads((folder / "results.json").read_text())
    old = results | {"bad_videos": 1}
    old.pop("bad_questions")
    for changed, heads in (
        (results, []),
        (old, ["bad videos"]),
        (results | {"bad_questions": 2}, ["bad questions"]),
    ):
        write_json(folder / "results.json", changed)
        runs = find_runs([folder])
        page = Page(render_html(make_sections(runs, name_runs(runs)), [], "r"))
        head, row = page.tables[0][:2]
        assert [text for text in head if text.startswith("bad")] == heads
        assert len(head) == len(row)


@pytest.mark.parametrize(
    ("breaking", "message"),
    [
        (lambda folder: (folder / "results.json").write_text("{"), "is not an evaluation that can be read"),
        (lambda folder: (folder / "results.json").write_text("[]"), "is not an evaluation that can be read"),
        (lambda folder: (folder / "predictions.jsonl").write_text("x\n"), r"predictions\.jsonl:1"),
        (lambda folder: (folder / "predictions.jsonl").write_text(""), "has 0 predictions"),
        (lambda folder: (folder / "cost.json").write_text("?"), "is not an evaluation that can be read"),
        (lambda folder: (folder / "results.json").unlink(), "not finished"),
        (lambda folder: (folder / "predictions.jsonl").unlink(), "has no evaluation in it"),
    ],
)
def test_broken_runs_are_named(tmp_path, breaking, message):
    folder = write_run(tmp_path / "run", half(4))
    breaking(folder)
    with pytest.raises(ValueError, match=message) as error:
        find_runs([folder])
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("name", ["report", "sweep", "visualize"])
def test_every_setting_is_explained(name):
    keys = list(documented_keys((CONFIG_DIR / f"{name}.yaml").read_text()))
    assert len(keys) > 4
    assert [key for key, _, meaning in keys if not meaning] == []


@pytest.mark.slow
def test_script_reports_evaluations_with_what_was_kept(monkeypatch, tmp_path, capsys, tiny_folder, clips):
    data = [f"data.annotations={clips / 'train.jsonl'}", f"data.test_annotations={clips / 'test.jsonl'}"]
    asked = [f"model.path={tiny_folder}", "data=jsonl", *data, "frames=3", "eval.limit=4"]
    for policy in ("temporal", "random"):
        assert run_script(monkeypatch, tmp_path, "eval", *asked, f"policy={policy}", "eval.masks=true") == 0
    assert run_script(monkeypatch, tmp_path, "eval", *asked, "policy=uniform") == 0
    capsys.readouterr()
    assert (
        run_script(monkeypatch, tmp_path, "report", "runs=[outputs/eval]", "examples=1", "title=Two policies")
        == 0
    )
    page = Page((tmp_path / "outputs/report/report.html").read_text())
    assert [link[:22] for link in page.links] == ["data:image/png;base64,"]
    assert "Two policies" in page.texts
    table = (tmp_path / "outputs/report/report.md").read_text()
    assert table in capsys.readouterr().out
    for folder in (tmp_path / "outputs/eval").rglob("results.json"):
        results = json.loads(folder.read_text())
        (line,) = [
            line for line in table.splitlines() if line.startswith(f"| {results['settings']['policy']} ")
        ]
        assert f"{100 * results['accuracy']:.1f}" in line
    assert any("Not drawn" in text and text.count("uniform 50%") == 1 for text in page.texts)
    (predictions,) = (tmp_path / "outputs/eval").rglob("*temporal*/predictions.jsonl")
    text = predictions.read_text()
    predictions.write_text(text.replace('"shape": [3, ', '"shape": [4, '))
    assert run_script(monkeypatch, tmp_path, "report", "runs=[outputs/eval]", "examples=1") == 2
    assert "what was kept cannot be read from its prediction" in capsys.readouterr().err
    predictions.write_text(text)
    predictions.with_name("config.yaml").unlink()
    assert run_script(monkeypatch, tmp_path, "report", f"runs=[{predictions.parent}]", "examples=1") == 2
    assert "does not say where the videos are" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "runs is empty"),
        (["runs=[nowhere]"], "runs has 'nowhere': no such folder"),
        (["runs=here"], "runs is 'here', must be a list"),
        (["runs=[.]"], "has no evaluation in it"),
        (["runs=[run]", "examples=-1"], "examples is -1"),
        (["runs=[run]", "examples=0", "names=[a,b]"], "names has 2 entries"),
        (["runs=[run]", "examples=0", "output_dir=run/results.json"], "run/results.json: File exists"),
    ],
)
def test_mistakes_are_told_in_one_message(monkeypatch, tmp_path, capsys, arguments, message):
    if arguments[:1] == ["runs=[run]"]:
        write_run(tmp_path / "run", half(4))
    assert run_script(monkeypatch, tmp_path, "report", *arguments) == 2
    told = capsys.readouterr().err
    assert re.search(message, told), told
    assert "Traceback" not in told
    assert not (tmp_path / "outputs").exists()
