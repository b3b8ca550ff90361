"""The commands that scripts end with, read back as a shell and the scripts read them."""

from __future__ import annotations

import os
import shlex
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from stts.settings.arguments import for_hydra
from stts.settings.next_command import of_model, suggest
from stts.settings.run_names import name_of_weights, named_after_weights


@pytest.mark.parametrize("path", ["a b/c.mp4", "it's #1, [ü]=x.mp4", "'quoted'", "$HOME/{a}.mp4"])
def test_a_suggestion_can_be_copied_into_a_shell(monkeypatch, capsys, path):
    monkeypatch.setattr(sys, "argv", ["my scripts/eval.py"])
    suggest("visualize", ["frames=4"], video=path, runs=[path, "b"], policy=None)
    said = capsys.readouterr().out
    start, *words = shlex.split(said.removeprefix("next: "))
    assert (start, words[0], words[1]) == ("python", "my scripts/visualize.py", "frames=4")
    readable = for_hydra(words[2:], ["video", "runs"])
    values = [OverridesParser.create().parse_override(argument).value() for argument in readable]
    assert values == [path, [path, "b"]]


def test_the_same_model_is_named_again():
    config = {
        "model": {"name": "tiny", "path": None},
        "checkpoint": "x",
        "policy": "scorer",
        "prune_ratio": 0.5,
    }
    assert of_model(config) == {"checkpoint": "x", "prune_ratio": 0.5}
    model = {"name": "molmo2_4b", "path": "here"}
    config |= {"model": model, "checkpoint": None, "policy": "random", "prune_ratio": 0}
    assert of_model(config) == {"model": "molmo2_4b", "model.path": "here"}


def test_weights_have_names_of_their_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert name_of_weights(None, None, "tiny") == "tiny"
    assert name_of_weights(None, "allenai/Molmo2-4B", "molmo2_4b") == "molmo2_4b"
    assert name_of_weights("outputs/train/RUN/model", "hub/id", "tiny") == "RUN"
    assert name_of_weights(str(tmp_path / "outputs/train/RUN/model/"), None, "tiny") == "RUN"
    os.makedirs("other/RUN/model")
    folders = ["a/RUN/model", "b/RUN/model", "b/RUN", "RUN", "other/RUN/model", "../RUN/model", "/", "."]
    names = {name_of_weights(folder, None, "tiny") for folder in folders}
    assert len(names) == len(folders)
    assert name_of_weights(None, "other/RUN/model", "tiny") == name_of_weights(
        "other/RUN/model", None, "tiny"
    )
    config = {"model": {"name": "tiny", "path": None}, "checkpoint": None, "output_dir": "o/{weights}-x"}
    assert named_after_weights(config)["output_dir"] == "o/tiny-x"
