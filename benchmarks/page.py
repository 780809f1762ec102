"""The report as one page: everything inside, nothing fetched; light or dark as the reader has it, on any width."""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from benchmarks import plots
from benchmarks.charts import Chart, figures
from benchmarks.report import Report, Table, Target

_STYLE: Final = Path(__file__).with_name("page.css")
_MARKS: Final = {"met": "✓ met", "missed": "✗ missed", "N/A": "? N/A"}


def render(report: Report, *, bias: Iterable[str], left_out: Sequence[str]) -> str:
    """Return the page: what was measured and how far to trust it, the targets, the plots, the tables.

    It is well-formed XML after its first line, too.
    """
    parts = [
        _section("What was measured", _list(report.measured)),
        _section("Where", _facts(_machine(report.environment))),
        _section("Settings", _facts(report.settings)),
        _section("Data", _facts(report.data)),
        _section("Bias", _list(bias)),
        _section("Targets", _targets(report.targets)),
        _section(
            "Plots",
            "".join(_figure(chart, f"c{number}") for number, chart in enumerate(report.charts)),
        ),
        _section("Tables", "".join(map(_table, report.tables))),
        _section("Left out", _list(left_out)),
    ]
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>codesvc: benchmarks</title><style>{escape(_style(), quote=False)}</style></head><body>\n"
        f"<h1>codesvc: benchmarks</h1>\n{_lead(report)}{''.join(parts)}</body></html>\n"
    )


def _lead(report: Report) -> str:
    met = sum(target.met is True for target in report.targets)
    text = f"{report.environment['time']}. {met} of {len(report.targets)} targets met. "
    text += "Figures are medians of the rounds; a result was checked before its time counted, and a wrong one is N/A."
    warning = (
        '<p class="warning">A quick run: once and small. It shows that everything still runs; '
        "its figures say nothing about speed.</p>\n"
    )
    return f"<p>{escape(text)}</p>\n{warning * report.quick}"


def _style() -> str:
    light, dark = (
        "\n  ".join(f"--{name}: {pair[which]};" for name, pair in plots.COLOURS.items()) for which in (0, 1)
    )
    return _STYLE.read_text(encoding="utf-8").replace("@@LIGHT@@", light).replace("@@DARK@@", dark)


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>\n{content}</section>\n" if content else ""


def _list(items: Iterable[str]) -> str:
    lines = "".join(f"<li>{escape(item)}</li>\n" for item in items)
    return f"<ul>{lines}</ul>\n" if lines else ""


def _facts(facts: Mapping[str, str]) -> str:
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>\n" for name, value in facts.items())
    return f"<dl>{lines}</dl>\n" if lines else ""


def _machine(environment: Mapping[str, Any]) -> dict[str, str]:
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    return {
        "Processor": f"{environment['processor']}, {environment['cores']} cores",
        "Memory": f"{environment['memoryGB']} GB",
        "System": str(environment["system"]),
        "Load before the run": str(environment["loadAtStart"]),
        "Commit": environment["commit"] or "unknown",
        "Versions": f"Python {environment['python']}, {packages}",
    }


def _targets(targets: Sequence[Target]) -> str:
    if not targets:
        return ""
    rows = []
    for target in targets:
        kind = target.verdict.replace("/", "").lower()
        verdict = f'<span class="{kind}">{_MARKS[target.verdict]}</span>'
        cells = f"<td>{escape(target.measured)}</td><td>{escape(target.wanted)}</td>"
        rows.append(f"<tr><td>{verdict} {escape(target.name)}</td>{cells}</tr>")
    return _grid(("target", "measured", "wanted"), "\n".join(rows))


def _table(table: Table) -> str:
    note = f'<p class="note">{escape(table.note)}</p>\n' if table.note else ""
    return f"<h3>{escape(table.title)}</h3>\n{_grid(table.head, _rows(table.rows))}{note}"


def _figure(chart: Chart, name: str) -> str:
    head, rows = figures(chart)
    drawn = ""
    if plots.AVAILABLE:
        label = f'<svg role="img" aria-label="{escape(chart.title)}; the figures follow as a table"'
        for kind in ("wide", "narrow"):
            svg = plots.inline_svg(chart, f"{name}{kind[0]}", narrow=kind == "narrow")
            drawn += f'<div class="{kind}">{re.sub("^<svg", lambda _: label, svg)}</div>\n'
    note = f'<p class="note">{escape(chart.note)}</p>\n' if chart.note else ""
    opened = "" if drawn else ' open="open"'
    return (
        f"<figure><figcaption>{escape(chart.title)}</figcaption>\n{drawn}{note}"
        f"<details{opened}><summary>The figures, in {escape(chart.unit)}</summary>\n{_grid(head, _rows(rows))}"
        "</details></figure>\n"
    )


def _grid(head: Sequence[str], rows: str) -> str:
    cells = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    return (
        f'<div class="scroll"><table><thead><tr>{cells}</tr></thead>\n<tbody>{rows}</tbody></table></div>\n'
    )


def _rows(rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
