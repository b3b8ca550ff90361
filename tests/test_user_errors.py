"""What a user may get wrong, script by script: one message that names it, and never a traceback."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

OWN = ["model.path=MODEL", "data=jsonl", "data.annotations=ROWS", "data.test_annotations=TESTS", "frames=2"]
TRAIN = [*OWN, "train.num_workers=0", "train.max_steps=1", "train.batch_size=1"]
NOWHERE = "/proc/nowhere/out"


@pytest.fixture(scope="module")
def files(tiny_folder, clips, tmp_path_factory) -> dict[str, str]:
    """What stands in the arguments for files, good and broken ones."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "video.mp4").write_text("no video")
    (folder / "words.jsonl").write_text("no JSON\n")
    (folder / "free.jsonl").write_text(
        '{"id": "a", "video": "x.mp4", "question": "What?", "answer": "red"}\n'
    )
    (folder / "binary").write_bytes(b"\xff\xfe\x00")
    config = json.loads((tiny_folder / "config.json").read_text())
    models = {"NO_WEIGHTS": None, "OTHER_TYPE": config | {"model_type": "llava"}, "NO_JSON": "{"}
    for name, changed in models.items():
        shutil.copytree(tiny_folder, folder / name)
        if changed is None:
            (folder / name / "model.safetensors").unlink()
        else:
            text = changed if isinstance(changed, str) else json.dumps(changed)
            (folder / name / "config.json").write_text(text)
    for name, text in {"EMPTY_RUN": "", "TAG_RUN": "!!python/name:os.system", "LIST_RUN": "[1]"}.items():
        (folder / name).mkdir()
        (folder / name / "config.yaml").write_text(text)
    named = {"MODEL": tiny_folder, "ROWS": clips / "train.jsonl", "TESTS": clips / "test.jsonl"}
    named |= {"VIDEO": folder / "video.mp4", "WORDS": folder / "words.jsonl", "FREE": folder / "free.jsonl"}
    named |= {name: folder / name for name in (*models, "EMPTY_RUN", "TAG_RUN", "LIST_RUN")}
    named |= {"BINARY": folder / "binary", "CLIP": clips / "videos/test_00000.mp4", "EMPTY": folder / "empty"}
    (folder / "empty").mkdir()
    return {name: str(path) for name, path in named.items()}


@pytest.fixture
def run(files, tmp_path, monkeypatch, capsys):
    """run(script, *arguments) -> (status, stderr) of a script in this process, in a folder of its own."""

    def start(name: str, *arguments: str) -> tuple[int, str]:
        monkeypatch.chdir(tmp_path)
        placed = [re.sub(r"\b[A-Z_]{3,}\b", lambda m: files.get(m[0], m[0]), word) for word in arguments]
        monkeypatch.setattr(sys, "argv", [f"scripts/{name}.py", *placed])
        try:
            runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name="__main__")
        except SystemExit as stop:
            return stop.code or 0, capsys.readouterr().err
        return 0, capsys.readouterr().err

    return start


CASES = [
    ("train", ["data=jsonl"], "data.annotations"),
    ("train", ["data.annotations=ROWS"], "add data=jsonl"),
    ("train", [*TRAIN, "data.annotations=nowhere.jsonl"], "nowhere.jsonl"),
    ("train", [*TRAIN, "data.annotations=WORDS"], "words.jsonl"),
    ("train", [*TRAIN, "data.annotations=BINARY"], "binary"),
    ("train", [*TRAIN, "data.root=EMPTY"], "empty"),
    ("train", [*TRAIN, "checkpoint=EMPTY"], "empty"),
    ("train", [*TRAIN, "checkpoint=NO_WEIGHTS"], "NO_WEIGHTS"),
    ("train", [*TRAIN, f"output_dir={NOWHERE}"], "/proc/nowhere"),
    ("train", [*TRAIN, "output_dir=VIDEO"], "video.mp4"),
    ("train", [*TRAIN, "model=nothing"], "model"),
    ("train", ["train.lr=fast"], "train.lr"),
    ("train", ["train={}x"], "'train={}x' cannot be read|train"),
    ("check_data", ["data=jsonl", "data.annotations=nowhere.jsonl"], "nowhere.jsonl"),
    ("check_data", ["data=jsonl", "check.limit=0", "data.annotations=ROWS"], "check.limit is 0"),
    ("check_data", [*OWN, "check.limit=1", f"check.output={NOWHERE}"], "/proc/nowhere"),
    ("eval", ["benchmark=videomme"], "videomme"),
    ("eval", ["benchmark=nothing"], "nothing"),
    ("eval", ["data=jsonl"], "data.test_annotations is not set"),
    ("eval", [*OWN, "data.test_annotations=FREE"], "options"),
    ("eval", [*OWN, "checkpoint=OTHER_TYPE"], "OTHER_TYPE"),
    ("eval", [*OWN, f"output_dir={NOWHERE}", "eval.limit=1"], "/proc/nowhere"),
    ("eval", [*OWN, "output_dir=VIDEO", "eval.limit=1"], "video.mp4"),
    ("eval", ["compare=[a]"], "must be two folders"),
    ("eval", ["compare=[a=1,ü]"], "a=1 holds no finished evaluation"),
    ("eval", ["compare=both"], "must be two folders"),
    ("sweep", ["frames=[]"], "frames is []"),
    ("sweep", [*OWN[:4], "frames=[2]", "prune_ratio=[0]", f"output_dir={NOWHERE}"], "/proc/nowhere"),
    ("visualize", [], "video is not set"),
    ("visualize", ["video=VIDEO", "model.path=MODEL"], "video.mp4"),
    ("visualize", ["video=EMPTY", "model.path=MODEL"], "without images"),
    ("visualize", ["video=CLIP", "model.path=MODEL", "reading.start=9"], "test_00000.mp4"),
    ("visualize", ["video=CLIP", "model.path=MODEL", "frames=2", f"output_dir={NOWHERE}"], "/proc/nowhere"),
    ("visualize", ["video=a=(b", "model.path=MODEL"], "video is 'a=(b': no such file"),
    ("report", [], "runs is empty"),
    ("report", ["runs=x"], "must be a list"),
    ("report", ["runs=[ü=1]"], "no such folder"),
    ("report", ["runs=[EMPTY]"], "has no evaluation in it"),
    ("demo", ["arms=[[none,0.5]]"], "arm none has prune_ratio 0.5"),
    ("demo", ["steps=-1"], "steps is -1"),
    ("demo", ["arms=[none]"], "arms has 'none', must be pairs"),
    ("make_tiny", ["size=small"], "size=small is gone"),
    ("make_tiny", ["seed=x"], "seed is 'x'"),
    ("convert", ["export", "MODEL", "out"], "export is gone"),
    ("convert", ["import", "VIDEO", "out"], "video.mp4"),
    ("convert", ["import", "nowhere.pt", "out", "--like", "MODEL"], "nowhere.pt"),
    ("convert", ["import", "NO_JSON", "out"], "NO_JSON holds neither model.pt"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), CASES, ids=range(len(CASES)))
def test_a_mistake_is_one_message(run, name, arguments, message):
    status, told = run(name, *arguments)
    assert status == 2, told
    assert re.search(message if "|" in message else re.escape(message), told), told
    assert "Traceback" not in told
    assert "Error executing job" not in told


@pytest.mark.parametrize("name", ["EMPTY_RUN", "TAG_RUN", "LIST_RUN"])
def test_a_run_whose_settings_are_damaged_cannot_be_asked_again(files, name):
    from stts.eval.report.examples import find_question
    from stts.eval.report.runs import EvaluatedRun

    with pytest.raises(ValueError, match=r"config\.yaml does not say where the videos are"):
        find_question(EvaluatedRun(Path(files[name]), {}, ()), "a")
