"""The table of docs/hosts_table.md is what the command prints."""

from __future__ import annotations

import pytest
from limits import NAMES, row

from tests.helpers.paths import ROOT


@pytest.mark.parametrize("name", ["internvl3_1b", "qwen2_5_vl_3b", "llava_onevision_0_5b"])
def test_a_row_of_the_table(name):
    assert row(name) in (ROOT / "docs" / "hosts_table.md").read_text().splitlines()


def test_all_rows_are_there_and_are_models_with_settings():
    text = (ROOT / "docs" / "hosts_table.md").read_text()
    assert all(f"| {name} |" in text for name in NAMES)
    assert all((ROOT / "configs" / "model" / f"{name}.yaml").is_file() for name in NAMES)
