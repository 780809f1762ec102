"""What a run found: tables on the terminal, report.json, and one page with plots; never without the result's check."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import page, plots
from benchmarks.charts import BarChart, Chart
from benchmarks.machine import environment

BIAS: Final = (
    "This is codesvc's own benchmark of codesvc, written by those who wrote the service: run it on your machine.",
    (
        "Client, service, MongoDB and the stand-in for S3 share the same few cores, so that what one saves another "
        "gains. With machines of their own, the service would wait for MongoDB sooner, and for the network longer."
    ),
    "The network is the loopback interface: no latency, no loss, no TLS.",
    "The stand-in for S3 is a static file server on the same machine: no signatures checked, no throttling.",
    (
        "Contenders take turns round by round, and a figure is the median of the rounds. A machine that others share "
        "is noisy all the same: trust the ratios within a run before the figures themselves."
    ),
)


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
            sys.stdout.write("\n" + "".join(f"Left out: {one}\n" for one in self._all_left_out()))
        if self.targets:
            rows = [[one.name, one.wanted, one.measured, one.verdict] for one in self.targets]
            _print_table(Table("Targets", ("target", "wanted", "measured", ""), rows))

    def write(self, directory: Path) -> Path:
        """Write report.json, report.html and the main plot as benchmark.svg and .png; return the page's path."""
        directory.mkdir(parents=True, exist_ok=True)
        content = asdict(self) | {"left_out": self._all_left_out(), "bias": BIAS}
        text = json.dumps(content, indent=1, default=_plain, allow_nan=False)
        (directory / "report.json").write_text(text + "\n", encoding="utf-8")
        path = directory / "report.html"
        path.write_text(page.render(self, bias=BIAS, left_out=self._all_left_out()), encoding="utf-8")
        self.publish(directory)
        return path

    def publish(self, directory: Path) -> list[Path]:
        """Write the main plot as benchmark.svg and benchmark.png, for the README; nothing where there is none."""
        chart = self.main_chart
        if chart is None or not plots.AVAILABLE:
            return []
        paths = [directory / "benchmark.svg", directory / "benchmark.png"]
        paths[0].write_text(plots.standalone_svg(chart), encoding="utf-8")
        paths[1].write_bytes(plots.png(chart))
        return paths

    def _all_left_out(self) -> list[str]:
        if self.charts and not plots.AVAILABLE:
            return [*self.left_out, "the plots: matplotlib is not installed (the extra bench brings it)"]
        return self.left_out


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


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
