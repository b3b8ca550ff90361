"""python scripts/report.py runs=[outputs/eval]; --help explains every key."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from stts.eval.report.html import make_sections, write_report
from stts.eval.report.runs import find_runs, name_runs
from stts.settings.launch import launch


def main(config: dict[str, Any]) -> None:
    """Read the runs, draw the examples if any are wanted, write the report."""
    examples, runs = config["examples"], config["runs"]
    if type(examples) is not int or examples < 0:
        raise ValueError(f"examples is {examples!r}, must be a whole number, 0 or more")
    if not isinstance(runs, list):
        raise ValueError(f"runs is {runs!r}, must be a list of folders, e.g. runs=[outputs/eval]")
    found = find_runs(runs)
    names = config["names"] or name_runs(found)
    if len(names) != len(found):
        raise ValueError(f"names has {len(names)} entries, must have one for each of the {len(found)} runs")
    sections = make_sections(found, names)
    drawn = []
    if examples:
        from stts.eval.report.examples import draw_examples

        drawn = [example for section in sections for example in draw_examples(section, examples)]
    page, table = write_report(Path(config["output_dir"]), sections, drawn, config["title"])
    print(table.read_text(encoding="utf-8"))
    print(f"written to {page} and {table}")
    print("next: " + shlex.join(["python", "-m", "webbrowser", page.absolute().as_uri()]))


if __name__ == "__main__":
    launch(main, "report")
