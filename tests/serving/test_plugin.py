"""How vLLM finds the plug-in, and what it is told where the two do not go together. None of this needs vLLM."""

from __future__ import annotations

import importlib
import json
import sys
import tomllib

import pytest
from transformers import AutoModelForImageTextToText, Molmo2ForConditionalGeneration

from stts.serving.vllm import ARCHITECTURE, TESTED, wrong_versions
from tests.helpers.molmo2 import build, plain_twin
from tests.helpers.paths import ROOT


def test_the_entry_point_leads_to_a_function_and_loads_no_engine():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["entry-points"]["vllm.general_plugins"]["stts"].partition(":")
    loaded = "vllm" in sys.modules
    assert callable(getattr(importlib.import_module(module), function))
    assert ("vllm" in sys.modules) == loaded
    assert not any("vllm" in name for name in project["dependencies"])


def test_saved_folders_name_the_class_that_is_served_and_load_in_plain_transformers(tmp_path):
    model = build(prune_ratio=0.5)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [ARCHITECTURE]
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(plain) is Molmo2ForConditionalGeneration
    twin = plain_twin(model).state_dict()
    assert all((tensor == twin[name]).all() for name, tensor in plain.state_dict().items())


@pytest.mark.parametrize(
    ("vllm", "transformers", "named"),
    [
        (TESTED, "5.23.0", None),
        ("0.32.1+cpu", "5.20", None),
        ("0.33.0", "5.23.0", ("0.33.0", TESTED)),
        ("0.31.2", "5.23.0", ("0.31.2", TESTED)),
        (TESTED, "5.19.0", ("5.19.0", "5.20")),
    ],
)
def test_versions_that_do_not_go_together_are_both_named(vllm, transformers, named):
    said = wrong_versions(vllm, transformers)
    assert (said is None) == (named is None)
    assert named is None or all(version in said for version in named)
