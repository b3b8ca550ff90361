"""docs/fidelity.md names tests by their folder; they exist."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

TESTS = Path(__file__).parent
FIDELITY = (TESTS.parent / "docs" / "fidelity.md").read_text()


def test_every_test_that_is_named_exists():
    missing, checked, file = [], 0, ""
    for name in re.findall(r"`((?:[\w/]*test_\w+\.py)?(?:::)?(?:test_[\w*]*)?)`", FIDELITY):
        if ".py" in name:  # later names of a row are of the same file
            file, _, name = name.partition("::")
        found = re.findall(r"^def (test_\w+)", (TESTS / file).read_text(), flags=re.MULTILINE)
        if name and not any(fnmatch(test, name) for test in found):
            missing.append(f"{file}::{name}")
        checked += 1
    assert not missing
    assert checked > 50
