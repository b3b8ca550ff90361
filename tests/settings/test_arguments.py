"""Values with any characters, through Hydra and back."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from stts.settings.arguments import for_hydra
from stts.settings.launch import launch

ODD = "=#([{,'\"\\$ }])~é日🙂:%&;!*?|<>^`@+-_./aA0"
PATHS = st.text(st.sampled_from(ODD) | st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1)
KEYS = ["checkpoint", "video", "output_dir", "data.annotations", "compare", "runs", "policy", "prune_ratio"]


def is_marked(text: str) -> bool:
    """Whether a text already has a meaning of its own: quoted, null, or with a reference to another key."""
    quoted = text[0] == text[-1] and text[0] in "'\"" and len(text) > 1
    return quoted or text.strip().lower() in ("null", "") or "${" in text


def arrives(argument: str) -> Any:
    """The value that a key has once Hydra and OmegaConf have read the argument."""
    (readable,) = for_hydra([argument], KEYS)
    value = OverridesParser.create().parse_override(readable).value()
    return OmegaConf.to_container(OmegaConf.create({"key": value}), resolve=True)["key"]


@settings(max_examples=300, derandomize=True, deadline=None)
@given(PATHS, st.sampled_from(["checkpoint", "output_dir", "data.annotations", "+video"]))
def test_any_path_arrives_as_it_is(path, key):
    assume(not is_marked(path))
    assert arrives(f"{key}={path}") == path


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.lists(PATHS, min_size=1, max_size=3))
def test_any_paths_without_commas_arrive_in_a_list(paths):
    assume(not any(is_marked(path) or "," in path or path != path.strip() for path in paths))
    assert arrives(f"compare=[{','.join(paths)}]") == paths


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("video='a=b'", "a=b"),
        ('video="it\'s"', "it's"),
        ("video=null", None),
        ("video=", ""),
        ("video=007", "007"),
        ("video=true", "true"),
        ("video=[a]", "[a]"),
        ("video=a${b", "a${b"),
        ("video=a\\${b}", "a${b}"),
        ("compare=['a,b',c=d]", ["a,b", "c=d"]),
        ("compare=[]", []),
        ("runs=[1,two]", ["1", "two"]),
        ("policy=é", "é"),
        ("policy=[a,b]", ["a", "b"]),
        ("prune_ratio=0.5", 0.5),
    ],
)
def test_what_stays_and_what_is_taken_for_text(argument, value):
    assert arrives(argument) == value


@pytest.mark.parametrize(
    ("arguments", "readable"),
    [
        (["-m", "prune_ratio=0,0.5"], ["-m", "prune_ratio=0,0.5"]),
        (["checkpoint=a,b=c", "--multirun"], ["checkpoint=a,'b=c'", "--multirun"]),
        (["checkpoint='a,b',c", "-m"], ["checkpoint='a,b',c", "-m"]),
        (["checkpoint=choice(a,b)", "-m"], ["checkpoint=choice(a,b)", "-m"]),
        (["compare=[a,b],[c,d]", "-m"], ["compare=[a,b],[c,d]", "-m"]),
        (["--cfg", "job", "~data", "+data.x={a: 1}"], ["--cfg", "job", "~data", "+data.x={a: 1}"]),
    ],
)
def test_sweeps_and_what_hydra_reads_itself_stay(arguments, readable):
    assert for_hydra(arguments, KEYS) == readable


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "'train' is no setting, must be KEY=VALUE"),
        (["prune_ratio=0,0.5"], r"add -m to run each, or write a list prune_ratio=\[0,0.5\]"),
        (["policy=[é"], r"write policy='\[é', all of it in double quotes"),
        (["policy=a,é", "-m"], "write policy='a,é'"),
        (["unknown=a=b"], "write unknown='a=b'"),
    ],
)
def test_what_cannot_be_read_is_said_with_how_to_write_it(arguments, message):
    with pytest.raises(ValueError, match=message):
        for_hydra(arguments, KEYS)


def run(monkeypatch, name: str, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit status of a script whose task only looks, and the settings that it was given."""
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    try:
        launch(seen.append, name)
    except SystemExit as stop:
        return stop.code, seen
    return 0, seen


@settings(max_examples=15, derandomize=True, deadline=None)
@given(PATHS)
@example("runs (1)/it's #2, [ü] {日}=x/clip🙂.mp4")
def test_a_script_is_given_the_path_or_says_what_is_wrong(path):
    with pytest.MonkeyPatch.context() as monkeypatch:
        assume(not is_marked(path))
        status, seen = run(monkeypatch, "visualize", f"video={path}")
        assert (status, [config["video"] for config in seen]) == (0, [path])


def test_a_sweep_over_odd_paths(monkeypatch):
    status, seen = run(monkeypatch, "visualize", "checkpoint=a=1,ö/model", "frames=1,2", "-m")
    assert status == 0
    assert [(config["checkpoint"], config["frames"]) for config in seen] == [
        *(("a=1", 1), ("a=1", 2)),
        *(("ö/model", 1), ("ö/model", 2)),
    ]


@pytest.mark.parametrize("plus", ["", "+"])
def test_a_key_of_another_file_of_its_group_is_told(monkeypatch, capsys, plus):
    def task(config):
        raise ValueError("refused")

    monkeypatch.setattr(sys, "argv", ["train.py", f"{plus}data.annotations=x.jsonl"])
    with pytest.raises(SystemExit):
        launch(task, "train")
    told = capsys.readouterr().err
    assert "data.annotations is a setting of data=jsonl, data=llava_video, data=molmo2, not of" in told
    assert "add data=jsonl" in told
    assert "+data" not in told


@pytest.mark.parametrize(
    "chosen", [["data=jsonl"], ["experiment=molmo2_4b_video_50"], ["data=jsonl", "frames=1,2", "-m"]]
)
def test_a_key_of_the_chosen_file_passes(monkeypatch, chosen):
    status, seen = run(monkeypatch, "train", "data.annotations=x#1.jsonl", *chosen)
    assert status == 0
    assert {config["data"]["annotations"] for config in seen} == {"x#1.jsonl"}


def test_a_reference_that_leads_nowhere_is_told(monkeypatch, capsys):
    assert run(monkeypatch, "visualize", "video=a${nothing}")[0] == 2
    told = capsys.readouterr().err
    assert "'nothing' not found" in told
    assert "stands for another key" in told
