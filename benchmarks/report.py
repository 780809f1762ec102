"""What a run found, and how it is told on a terminal; benchmarks/publish.py writes it to files."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks import plots
from benchmarks.charts import BarChart, Chart
from benchmarks.machine import environment


@dataclass(frozen=True, slots=True)
class Table:
    """A table: the cells are text, figures come formatted."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """A promise and the figure that was measured; ``met`` is None where there is no figure."""

    name: str
    wanted: str
    measured: str
    met: bool | None

    @property
    def verdict(self) -> str:
        """The outcome in a word."""
        return "N/A" if self.met is None else "met" if self.met else "missed"


@dataclass(slots=True)
class Report:
    """Everything one call of `make bench` found.

    Attributes:
        quick: whether it only shows that everything runs; its figures mean nothing.
        measured: a sentence from each suite on what it measured.
        settings: by name, what the service, MongoDB and the contenders ran with.
        data: by name, what the files looked like.
        left_out: what was not measured or drawn, and why.
        figures: anything else worth keeping, for report.json only.

    """

    quick: bool
    tables: list[Table] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    measured: list[str] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=environment)

    @property
    def main_chart(self) -> BarChart | None:
        """The chart that the README shows."""
        return next((one for one in self.charts if isinstance(one, BarChart) and one.main), None)

    def show(self) -> None:
        """Print every table, what was left out, and the targets last."""
        for table in self.tables:
            _print_table(table)
        if self.left_out:
            sys.stdout.write("\n" + "".join(f"Left out: {one}\n" for one in self.all_left_out()))
        if self.targets:
            rows = [[one.name, one.wanted, one.measured, one.verdict] for one in self.targets]
            _print_table(Table("Targets", ("target", "wanted", "measured", ""), rows))

    def all_left_out(self) -> list[str]:
        """Tell what was not measured or drawn."""
        if self.charts and not plots.AVAILABLE:
            return [*self.left_out, "the plots: matplotlib is not installed (the extra bench brings it)"]
        return self.left_out


def _print_table(table: Table) -> None:
    widths = [max(len(row[i]) for row in (table.head, *table.rows)) for i in range(len(table.head))]
    lines = ["", f"## {table.title}", ""]
    for row in (table.head, ["-" * width for width in widths], *table.rows):
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    if table.note:
        lines += ["", table.note]
    sys.stdout.write("\n".join(lines) + "\n")
