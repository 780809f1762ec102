"""How charts look: drawn with matplotlib, as SVG that follows the page's light or dark colours, or as PNG.

Every chart has two shapes, for a wide page and for a telephone, since a wide one scaled down cannot be read. Colours
are those of Okabe and Ito (Color Universal Design, 2008), darkened where white paper needs it, and never carry a
meaning alone: each bar, line and cell has its label.
"""

import io
import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

from benchmarks.charts import BarChart, Better, Chart, HeatMap, Line, LineChart, Values, middle, short

try:
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
except ModuleNotFoundError:
    AVAILABLE = False
else:
    AVAILABLE = True

# A colour is drawn as the first of its two, and becomes a CSS variable in the SVG: (on light, on dark).
COLOURS: Final = {
    "surface": ("#fefefe", "#14171a"),
    "ink": ("#1c2024", "#e8eaed"),
    "muted": ("#5b636b", "#a3abb3"),
    "grid": ("#dfe3e7", "#33393f"),
    "ours": ("#0072b2", "#56b4e9"),
    "other": ("#a4acb4", "#6c757d"),
    "series-2": ("#b84f00", "#e69f00"),
    "series-3": ("#00795a", "#2fbf95"),
    "series-4": ("#9b4d84", "#d98cbb"),
}
_LIGHT: Final = {name: light for name, (light, _) in COLOURS.items()}
_LINES: Final = ("ours", "series-2", "series-3", "series-4", "muted")
_MARKERS: Final = ("o", "s", "^", "D", "v")

_WIDE: Final = 8.4
_NARROW: Final = 3.5
_SIZE: Final = 9.0
_POINTS_PER_CHARACTER: Final = 0.56 * _SIZE
_STYLE: Final = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": _SIZE,
    "text.color": _LIGHT["ink"],
    "axes.labelcolor": _LIGHT["muted"],
    "axes.edgecolor": _LIGHT["grid"],
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "xtick.color": _LIGHT["grid"],
    "ytick.color": _LIGHT["grid"],
    "xtick.labelcolor": _LIGHT["muted"],
    "ytick.labelcolor": _LIGHT["muted"],
    "figure.facecolor": _LIGHT["surface"],
    "savefig.facecolor": _LIGHT["surface"],
}


def inline_svg(chart: Chart, name: str, *, narrow: bool) -> str:
    """Draw a chart as an `<svg>` element for a page that defines the variables of ``COLOURS``.

    ``name`` begins every id in it, so that charts on one page do not take each other's parts.
    """
    svg = _svg(chart, name, narrow=narrow)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    return re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg))


def standalone_svg(chart: Chart) -> str:
    """Draw a chart as an SVG file, which follows the reader's light or dark setting by itself."""
    light, dark = (" ".join(f"--{key}: {pair[which]};" for key, pair in COLOURS.items()) for which in (0, 1))
    style = f"<style>svg {{ {light} }} @media (prefers-color-scheme: dark) {{ svg {{ {dark} }} }}</style>"
    svg = _svg(chart, "benchmark", narrow=False, title=True)
    return re.sub(r"(<svg[^>]*>)", rf"\1\n {style}", svg, count=1) + "\n"


def png(chart: Chart) -> bytes:
    """Draw a chart as a PNG file on white, at twice the usual resolution."""
    out = io.BytesIO()
    with mpl.rc_context(_STYLE):
        _draw(chart, narrow=False, title=True).savefig(
            out, format="png", dpi=200, metadata={"Software": None}
        )
    return out.getvalue()


def _svg(chart: Chart, name: str, *, narrow: bool, title: bool = False) -> str:
    out = io.StringIO()
    # No date, no creator: the same figures give the same file.
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        _draw(chart, narrow=narrow, title=title).savefig(out, format="svg", metadata=metadata)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    for key, (light, _) in COLOURS.items():
        svg = svg.replace(light, f"var(--{key})")
    svg = svg.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans'")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    return re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)


def _draw(chart: Chart, *, narrow: bool, title: bool) -> Any:
    if isinstance(chart, BarChart):
        figure = _bars(chart, narrow=narrow, title=title)
    elif isinstance(chart, LineChart):
        figure = _lines(chart, narrow=narrow, title=title)
    else:
        figure = _cells(chart, narrow=narrow, title=title)
    return figure


def _bars(chart: BarChart, *, narrow: bool, title: bool) -> Any:
    """Draw horizontal bars, case by case; on a narrow page a bar's label stands above it."""
    longest = max((len(bar.label) for bar in chart.bars), default=0)
    left = 0.1 if narrow else 0.25 + longest * _POINTS_PER_CHARACTER / 72
    step = 1.7 if narrow else 1.0
    rows: list[tuple[float, Any]] = []
    headings: list[tuple[float, str]] = []
    at = 0.0
    for case, bars in groupby(chart.bars, key=lambda bar: bar.case):
        if case:
            headings.append((at, case))
            at += 1.1
        for bar in bars:
            rows.append((at + step - 1.0, bar))
            at += step
        at += 0.5
    figure, axes = _frame(
        chart, at * 0.235 + 0.1, width=_NARROW if narrow else _WIDE, left=left, narrow=narrow, title=title
    )
    peak = max((max(bar.values) for bar in chart.bars if bar.values), default=1.0)
    axes.set(xlim=(0, peak * (1.26 if narrow else 1.12)), ylim=(at - 0.6, -0.75), yticks=[])
    axes.grid(axis="x", color=_LIGHT["grid"], linewidth=0.8)
    for y, text in headings:
        axes.annotate(text, (0, y), xycoords=("axes fraction", "data"), va="center", weight="bold")
    for y, bar in rows:
        end = _bar(axes, y, bar.values, ours=bar.label.startswith("codesvc"))
        axes.annotate(
            short(middle(bar.values)) if bar.values else "N/A: wrong result",
            (end, y),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
        if narrow:
            axes.annotate(bar.label, (0, y - 0.8), va="center", color=_LIGHT["muted"])
        else:
            axes.annotate(
                bar.label,
                (0, y),
                xytext=(-6, 0),
                textcoords="offset points",
                va="center",
                ha="right",
                annotation_clip=False,
            )
    _number(axes.xaxis)
    return figure


def _bar(axes: Any, y: float, values: Values, *, ours: bool) -> float:
    """Draw one bar with its whisker, and return where it ends."""
    height = middle(values)
    if height is None or not values:
        return 0.0
    axes.barh(y, height, height=0.62, color=_LIGHT["ours" if ours else "other"])
    low, high = min(values), max(values)
    if high > low:
        axes.plot([low, high], [y, y], color=_LIGHT["ink"], linewidth=1)
        axes.plot([low, low, high, high], [y, y, y, y], "|", color=_LIGHT["ink"], markersize=5)
    return max(high, height)


def _lines(chart: LineChart, *, narrow: bool, title: bool) -> Any:
    """Draw medians over sizes; a line's label stands at its end, on a narrow page above the plot."""
    longest = max((len(line.label) for line in chart.lines), default=0)
    right = 0.15 if narrow else 0.3 + longest * _POINTS_PER_CHARACTER / 72
    top = 0.2 * len(chart.lines) if narrow else 0.0
    figure, axes = _frame(
        chart,
        2.2 if narrow else 2.9,
        width=_NARROW if narrow else _WIDE,
        left=0.6,
        right=right,
        top=top,
        narrow=narrow,
        title=title,
        bottom=0.45,
    )
    axes.grid(axis="y", color=_LIGHT["grid"], linewidth=0.8)
    ends: list[tuple[float, float, int, Line]] = []
    for number, line in enumerate(chart.lines):
        points = [
            (size, values, height) for size, values in line.points if (height := middle(values)) is not None
        ]
        colour = _LIGHT[_LINES[number % len(_LINES)]]
        axes.plot(
            [size for size, _, _ in points],
            [height for _, _, height in points],
            color=colour,
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=5,
            linewidth=1.6,
        )
        for size, values, _ in points:
            if values and max(values) > min(values):
                axes.plot([size, size], [min(values), max(values)], color=colour, linewidth=1, marker="_")
        if points:
            ends.append((points[-1][0], points[-1][2], number, line))
    sizes = sorted({size for line in chart.lines for size, _ in line.points})
    axes.set_ylim(0, axes.get_ylim()[1] * 1.02 if ends else 1)
    axes.set_xticks(sizes, [_tick(size, 0) for size in sizes])
    axes.set_xlabel(chart.x_axis)
    _number(axes.yaxis)
    if narrow:
        for place, (_, _, number, line) in enumerate(ends):
            axes.annotate(
                f"{'●■▲◆▼'[number % len(_MARKERS)]} {line.label}",
                (0, 1),
                xytext=(0, 8 + 13 * (len(ends) - 1 - place)),
                xycoords="axes fraction",
                textcoords="offset points",
                color=_LIGHT[_LINES[number % len(_LINES)]],
            )
    else:
        for (x, _, number, line), y in zip(
            ends, _spaced([end[1] for end in ends], axes.get_ylim()[1] / 14), strict=True
        ):
            axes.annotate(
                line.label,
                (x, y),
                xytext=(9, 0),
                textcoords="offset points",
                va="center",
                color=_LIGHT[_LINES[number % len(_LINES)]],
                annotation_clip=False,
            )
    return figure


def _cells(chart: HeatMap, *, narrow: bool, title: bool) -> Any:
    """Draw a matrix; on a narrow page its columns become rows. The best cell has a frame."""
    cells: Sequence[Sequence[Values]]
    column_labels = [f"{group} · {label}" if group else label for group, label in chart.columns]
    if narrow:
        rows, columns = column_labels, list(chart.rows)
        cells = [[row[column] for row in chart.cells] for column in range(len(column_labels))]
    else:
        rows, columns, cells = list(chart.rows), [label for _, label in chart.columns], chart.cells
    figures = [[middle(values) for values in row] for row in cells]
    found = [value for row in figures for value in row if value is not None]
    low, high = min(found, default=0.0), max(found, default=1.0)
    best = (high if chart.better is Better.HIGHER else low) if found else None

    left = 0.25 + max(map(len, rows), default=0) * _POINTS_PER_CHARACTER / 72
    top = 0.2 + max(map(len, columns), default=0) * _POINTS_PER_CHARACTER / 72 if narrow else 0.55
    height = 0.27 if narrow else 0.34
    figure, axes = _frame(
        chart,
        len(rows) * height,
        width=_NARROW if narrow else _WIDE,
        left=left,
        top=top,
        bottom=0.12,
        narrow=narrow,
        title=title,
    )
    axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0), xticks=[], yticks=[])
    shades = mpl.colormaps["cividis"]
    size = min(_SIZE, 1.45 * 72 * ((_NARROW if narrow else _WIDE) - left) / max(1, len(columns)) / 5)
    for y, row in enumerate(figures):
        for x, value in enumerate(row):
            share = 0.5 if value is None or high == low else (value - low) / (high - low)
            shade = mpl.colors.to_hex(shades(share)) if value is not None else "none"
            axes.add_patch(
                Rectangle((x, y), 1, 1, facecolor=shade, edgecolor=_LIGHT["surface"], linewidth=1.5)
            )
            axes.annotate(
                short(value).replace(" ", ""),
                (x + 0.5, y + 0.5),
                va="center",
                ha="center",
                size=size,
                color=_LIGHT["muted"] if value is None else "#fdfdfd" if share < 0.5 else "#101010",
                weight="bold" if value is not None and value == best else "normal",
            )
            if value is not None and value == best:
                axes.add_patch(
                    Rectangle(
                        (x, y),
                        1,
                        1,
                        fill=False,
                        edgecolor=_LIGHT["ink"],
                        linewidth=2,
                        zorder=3,
                        clip_on=False,
                    )
                )
    for y, text in enumerate(rows):
        axes.annotate(
            text,
            (0, y + 0.5),
            xytext=(-6, 0),
            textcoords="offset points",
            va="center",
            ha="right",
            annotation_clip=False,
        )
    for x, text in enumerate(columns):
        axes.annotate(
            text,
            (x + 0.5, 0),
            xytext=(0, 5),
            textcoords="offset points",
            va="bottom",
            ha="center",
            rotation=90 if narrow else 0,
            annotation_clip=False,
        )
    if not narrow:
        _groups(axes, [group for group, _ in chart.columns], chart.axes)
    return figure


def _groups(axes: Any, groups: Sequence[str], names: tuple[str, str, str]) -> None:
    """Put each group's name above its run of columns, and what the labels are at the left."""
    start = 0
    for group, run in groupby(groups):
        size = len(list(run))
        axes.annotate(
            group,
            (start + size / 2, 0),
            xytext=(0, 20),
            textcoords="offset points",
            ha="center",
            va="bottom",
            weight="bold",
            annotation_clip=False,
        )
        start += size
        if start < len(groups):
            axes.axvline(start, color=_LIGHT["surface"], linewidth=5)
    for offset, name in ((20, names[1]), (5, names[2])):
        axes.annotate(
            name,
            (0, 0),
            xytext=(-6, offset),
            textcoords="offset points",
            ha="right",
            va="bottom",
            color=_LIGHT["muted"],
            annotation_clip=False,
        )


def _frame(
    chart: Chart,
    height: float,
    *,
    width: float,
    left: float,
    narrow: bool,
    title: bool,
    right: float = 0.15,
    top: float = 0.0,
    bottom: float = 0.32,
) -> tuple[Any, Any]:
    """Make a figure whose plot is ``height`` inches high, with the unit and where better lies above it."""
    head = (0.36 if title else 0.08) + 0.26 + top
    total = head + height + bottom
    figure = Figure(figsize=(width, total))
    axes = figure.add_axes((left / width, bottom / total, (width - left - right) / width, height / total))
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0, labelsize=_SIZE - 1)
    direction = "→ higher is better" if chart.better is Better.HIGHER else "← lower is better"
    edge = 0.1 / width
    if title:
        figure.text(edge, 1 - 0.12 / total, chart.title, va="top", weight="bold", size=_SIZE + 2)
    unit = (
        f"{chart.unit}   {direction}"
        if narrow
        else f"{chart.unit}, median and spread of the rounds   {direction}"
    )
    figure.text(edge, 1 - (0.36 if title else 0.08) / total, unit, va="top", color=_LIGHT["muted"])
    return figure, axes


def _number(axis: Any) -> None:
    axis.set_major_locator(mpl.ticker.MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(mpl.ticker.FuncFormatter(_tick))


def _tick(value: float, _: int) -> str:
    return re.sub(r"\.0+(?=$| )", "", short(value)) if value else "0"


def _spaced(heights: Sequence[float], least: float) -> list[float]:
    """Move labels apart that would overlap, upwards, the lowest first."""
    placed: dict[int, float] = {}
    floor = float("-inf")
    for number in sorted(range(len(heights)), key=lambda number: heights[number]):
        placed[number] = floor = max(heights[number], floor + least)
    return [placed[number] for number in range(len(heights))]
