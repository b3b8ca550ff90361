"""What docs/ claim: the tests that fidelity.md names exist, the tables of evidence.md are the committed results."""

from __future__ import annotations

import json
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


def table_rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:2] == "| "
    ]


def results_of(name: str) -> dict:
    return json.loads((TESTS.parent / "benchmarks" / "results" / f"{name}.json").read_text())


def with_interval(row: dict) -> str:
    low, high = row["accuracy_interval"]
    return f"{row['accuracy']:.3f} ({low:.3f} - {high:.3f})"


def test_tables_of_settings_and_of_the_second_host_are_the_committed_results():
    page = (TESTS.parent / "docs" / "evidence.md").read_text()
    rows = [row for row in results_of("accuracy-relevance-ablation")["rows"] if row["cell"] == "all"]
    written = table_rows(page.split("## What the recommended recipe was chosen by")[1].split("## The")[0])[2:]
    assert [values[1:3] for values in written] == [
        [with_interval(row), f"{row['evidence_recall']:.2f}"] for row in rows
    ]
    rows = {row["policy"]: row for row in results_of("accuracy-second-host")["rows"] if row["cell"] == "all"}
    written = table_rows(page.split("## A second host")[1].split("## What")[0])[2:]
    assert {name: value for name, value, *_ in written} == {x: with_interval(rows[x]) for x in rows}


def test_tables_of_evidence_are_the_committed_results():
    results = results_of("accuracy")
    found = {(row["policy"], row["prune_ratio"], row["cell"]): row for row in results["rows"]}
    leads = {(row["rival"], row["prune_ratio"], row["cell"]): row for row in results["differences"]}
    page = (TESTS.parent / "docs" / "evidence.md").read_text()
    text = page.split("## The comparison")[1].split("## What it")[0]
    accuracies, kept = text.split("Evidence kept:")
    checked, cells, ratio = 0, [], 0.0
    for head, *values in table_rows(accuracies):
        name = head.strip("*")
        if head.endswith("%"):
            cells, ratio = values, int(head.split()[0]) / 100
        elif head.startswith("over "):
            for value, cell in zip(values, cells, strict=True):
                row = leads[head.removeprefix("over "), ratio, cell]
                sure = "*" if row["interval"][0] * row["interval"][1] > 0 else ""
                assert value == f"{100 * row['difference']:+.1f}{sure}", (head, ratio, cell)
                checked += 1
        elif cells and (name, ratio, cells[0]) in found:
            assert values == [f"{100 * found[name, ratio, cell]['accuracy']:.1f}" for cell in cells], ratio
            checked += len(cells)
        elif (name, 0.8, "all") in found:
            for value, share in zip(values, (0.5, 0.8), strict=True):
                row = found[name, share, "all"]
                assert value == f"{with_interval(row)} / {row['evidence_recall']:.2f}", (name, share)
                checked += 1
    for head, *values in table_rows(kept):
        if head.endswith("%"):
            cells, ratio = values, int(head.split()[0]) / 100
        elif (head, ratio, cells[0]) in found:
            written = [f"{found[head, ratio, cell]['evidence_recall']:.2f}" for cell in cells]
            assert values == written, (head, ratio)
            checked += len(cells)
    assert checked == 12 * 2 + (1 + 6) * 10 + (1 + 7) * 10 + 4 * 10
