"""A report of a set of evaluations: one HTML file that needs nothing beside it, and a Markdown table."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ...files.durable import write_whole
from .runs import Difference, EvaluatedRun, Share

TEMPLATE = "report.html.j2"
ASSETS = Path(__file__).resolve().parents[2] / "assets"
NOTHING = "\N{EN DASH}"
"""Stands where a number is missing."""


@dataclass(frozen=True)
class Example:
    """A question, what every run answered, and pictures of what each kept of the video."""

    benchmark: str
    question: str
    options: tuple[str, ...]
    answer: str
    replies: tuple[tuple[str, str, bool], ...]
    """(name of the run, what it answered, whether that is right)."""
    pngs: tuple[bytes, ...]
    """One for each set of runs that saw the same frames."""
    not_drawn: tuple[str, ...] = ()
    """Names of the runs whose predictions do not hold what they kept."""


@dataclass(frozen=True)
class Line:
    """A run in the table of its benchmark."""

    name: str
    run: EvaluatedRun
    difference: Difference | None
    """From the benchmark's first line with whole videos; None for that line, and where questions differ."""


@dataclass(frozen=True)
class Section:
    """A benchmark: its runs, and their accuracies by category and by every other grouping."""

    benchmark: str
    lines: tuple[Line, ...]
    reference: str
    groups: Mapping[str, Mapping[str, tuple[Share | None, ...]]]
    """Kind -> label -> the share of each line, None where a run has no such label."""


def make_sections(runs: Sequence[EvaluatedRun], names: Sequence[str]) -> list[Section]:
    """Runs by benchmark, in the order they come."""
    sections = []
    for benchmark in dict.fromkeys(run.benchmark for run in runs):
        named = [(name, run) for name, run in zip(names, runs, strict=True) if run.benchmark == benchmark]
        reference = next((item for item in named if not item[1].settings["prune_ratio"]), named[0])
        lines = tuple(
            Line(name, run, None if run is reference[1] else run.compared_with(reference[1]))
            for name, run in named
        )
        sections.append(Section(benchmark, lines, reference[0], _groups([run for _, run in named])))
    return sections


def _groups(runs: Sequence[EvaluatedRun]) -> dict[str, dict[str, tuple[Share | None, ...]]]:
    found = [run.groups for run in runs]
    kinds = dict.fromkeys(kind for groups in found for kind in groups)
    labels = {
        kind: dict.fromkeys(label for groups in found for label in groups.get(kind, {})) for kind in kinds
    }
    return {
        kind: {label: tuple(groups.get(kind, {}).get(label) for groups in found) for label in labels[kind]}
        for kind in kinds
    }


def overview(sections: Sequence[Section]) -> dict[str, list[Share | float | None]]:
    """Name of a run -> its accuracy in each benchmark, None where it was not asked, and last their mean, None
    where one is missing."""
    names = dict.fromkeys(line.name for section in sections for line in section.lines)
    rows: dict[str, list[Share | float | None]] = {}
    for name in names:
        shares = [
            next((line.run.accuracy for line in section.lines if line.name == name), None)
            for section in sections
        ]
        known = [share.value for share in shares if share is not None]
        rows[name] = [*shares, fmean(known) if len(known) == len(shares) else None]
    return rows


def render_html(
    sections: Sequence[Section], examples: Sequence[Example], title: str, made: datetime | None = None
) -> str:
    """The whole report as one HTML page: styles inline, pictures as data, no scripts; all text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "points": points,
        "number": number,
        "data_uri": data_uri,
        "p_value": p_value,
    }
    made = made or datetime.now(UTC)
    return environment.get_template(TEMPLATE).render(
        title=title,
        made=made.strftime("%Y-%m-%d %H:%M UTC"),
        sections=sections,
        overview=overview(sections) if len(sections) > 1 else {},
        examples=examples,
        has=_columns(sections),
        nothing=NOTHING,
    )


def render_markdown(sections: Sequence[Section], title: str) -> str:
    """The accuracies as Markdown: a table for each benchmark, and one over all where there are several."""
    parts = [f"# {_cell(title)}"]
    if len(sections) > 1:
        heads = ["run", *(section.benchmark for section in sections), "mean"]
        rows = [
            [name, *(_share(share) for share in shares[:-1]), percent(shares[-1])]
            for name, shares in overview(sections).items()
        ]
        parts.append(_table(heads, rows))
    for section in sections:
        gain = f"points more than {section.reference}"
        heads = ["run", "accuracy [95 %]", gain, "kept", "s / question", "questions"]
        rows = [
            [
                line.name,
                _share(line.run.accuracy),
                _difference(line.difference),
                percent(line.run.mean("kept")),
                number(line.run.mean("seconds")),
                str(line.run.accuracy.n),
            ]
            for line in section.lines
        ]
        parts += [f"## {_cell(section.benchmark)}", _table(heads, rows)]
        for kind, labels in section.groups.items():
            heads = [kind, *(line.name for line in section.lines)]
            rows = [[label, *(_share(share) for share in shares)] for label, shares in labels.items()]
            parts.append(_table(heads, rows))
    return "\n\n".join(parts) + "\n"


def write_report(
    folder: Path, sections: Sequence[Section], examples: Sequence[Example], title: str
) -> tuple[Path, Path]:
    """Write report.html and report.md. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    page, table = folder / "report.html", folder / "report.md"
    write_whole(page, render_html(sections, examples, title))
    write_whole(table, render_markdown(sections, title))
    return page, table


def percent(share: float | None) -> str:
    """0.123 -> "12.3 %"."""
    return NOTHING if share is None else f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def points(share: float) -> str:
    """A difference in points of a hundred, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")


def number(value: float | None) -> str:
    """Three digits: 0.0123, 1.23, 1,230."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def data_uri(png: bytes) -> str:
    """A picture as a link that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _columns(sections: Sequence[Section]) -> dict[str, bool]:
    """Which columns have anything to show in some run."""
    runs = [line.run for section in sections for line in section.lines]
    return {
        "evidence_recall": any(run.mean("evidence_recall") is not None for run in runs),
        "cost": any(run.cost for run in runs),
        "unparsed": any(run.results["unparsed"] for run in runs),
        "bad_videos": any(run.results["bad_videos"] for run in runs),
        "bad_questions": any(
            run.results.get("bad_questions") for run in runs
        ),  # which older ones do not count
    }


def _share(share: Share | None) -> str:
    if share is None:
        return NOTHING
    return f"{percent(share.value)} [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def _difference(difference: Difference | None) -> str:
    if difference is None:
        return NOTHING
    low, high = points(difference.low), points(difference.high)
    return f"{points(difference.value)} [{low}, {high}]"


def _table(heads: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    heads = list(heads)
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    """Text that is text in Markdown, too: no markup of it, no HTML, one line."""
    text = html.escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", text)
