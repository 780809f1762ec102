"""What a suite found, in a form that can be drawn: it says what the figures are, benchmarks/plots.py how they look.

A value is a sequence with one figure per round, or None where the result was wrong: a wrong answer has no figure, and
shows as N/A. What is drawn is the median of the rounds, with the lowest and the highest as whiskers.

    report.charts.append(
        BarChart(
            "Codes stored per second",
            unit="codes/s",
            bars=[Bar("new", "wire ceiling", series.values), Bar("new", "codesvc", [381e3, 402e3, 395e3])],
            main=True,
        )
    )
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

Values = Sequence[float] | None
"""One figure per round; None: the result was wrong."""


class Better(StrEnum):
    """In which direction better lies; every chart says so."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True)
class Bar:
    """One contender in one case; bars of a case stand together, in the order in which they come.

    A label that begins with "codesvc" is drawn in colour, any other in grey.
    """

    case: str
    label: str
    values: Values


@dataclass(frozen=True, slots=True)
class BarChart:
    """Contenders side by side; ``main`` marks the one that the README shows."""

    title: str
    unit: str
    bars: Sequence[Bar]
    better: Better = Better.HIGHER
    note: str = ""
    main: bool = False


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A matrix of settings: ``cells[row][column]``.

    A column is a pair, of which the first names the group that it stands in (``""``: none):
    ``(("5,000", "1"), ("5,000", "2"), ("20,000", "1"), …)`` for batches of so many codes, and so many in flight.
    ``axes`` name the rows, the groups, and the columns.
    """

    title: str
    unit: str
    axes: tuple[str, str, str]
    rows: Sequence[str]
    columns: Sequence[tuple[str, str]]
    cells: Sequence[Sequence[Values]]
    better: Better = Better.HIGHER
    note: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One contender over a size: ``points`` are (size, values), by ascending size."""

    label: str
    points: Sequence[tuple[float, Values]]


@dataclass(frozen=True, slots=True)
class LineChart:
    """Figures over a size; ``x_axis`` names it with its unit ("codes in the file")."""

    title: str
    unit: str
    x_axis: str
    lines: Sequence[Line]
    better: Better = Better.HIGHER
    note: str = ""


Chart = BarChart | HeatMap | LineChart


def middle(values: Values) -> float | None:
    """Return the median of the rounds, or None where there is no figure."""
    return median(values) if values else None


def short(value: float | None) -> str:
    """Write a figure with three digits: 1.23 M, 412 k, 0.98; N/A where there is none."""
    if value is None:
        return "N/A"
    size = abs(value)
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if size >= 0.9995 * limit:
            return f"{_digits(value / limit)}{unit}"
    return _digits(value)


def figures(chart: Chart) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return a chart as a table, head and rows, for who cannot or would rather not look at it."""
    spread = ("median", "lowest", "highest", "rounds")
    if isinstance(chart, BarChart):
        return ("case", "contender", *spread), [
            (bar.case, bar.label, *_spread(bar.values)) for bar in chart.bars
        ]
    if isinstance(chart, LineChart):
        return (chart.x_axis, "contender", *spread), [
            (f"{size:,.0f}", line.label, *_spread(values))
            for line in chart.lines
            for size, values in line.points
        ]
    return chart.axes + spread, [
        (row, *column, *_spread(values))
        for row, cells in zip(chart.rows, chart.cells, strict=True)
        for column, values in zip(chart.columns, cells, strict=True)
    ]


def _spread(values: Values) -> tuple[str, str, str, str]:
    if not values:
        return "N/A", "", "", ""
    return _long(median(values)), _long(min(values)), _long(max(values)), str(len(values))


def _digits(value: float) -> str:
    size = abs(value)
    if size >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"


def _long(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else _digits(value)
