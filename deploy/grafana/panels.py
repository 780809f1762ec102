"""The parts of Grafana's dashboard JSON that dashboard.py uses, with everything that is the same for all of them.

https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/ names the fields.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

Json = dict[str, Any]

COLUMNS: Final = 24
"""The width of Grafana's grid."""

DATASOURCE: Final[Json] = {"type": "prometheus", "uid": "${datasource}"}

RUNBOOKS: Final = "${docs}#"
"""What a runbook's anchor is put behind; ``docs`` is a variable of the dashboard."""


@dataclass(frozen=True, slots=True)
class Query:
    """One expression, and the legend of its series."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel, before it has a place.

    Attributes:
        kind: Grafana's panel type.
        question: what it answers, shown as its description.
        unit: one of Grafana's ids of units.
        limits: (value, colour) from which on a colour applies, drawn as lines over time.
        runbooks: the alerts whose runbooks it links to.

    """

    kind: str
    title: str
    question: str
    queries: Sequence[Query]
    unit: str = "short"
    width: int = 8
    height: int = 8
    limits: Sequence[tuple[float, str]] = ()
    runbooks: Sequence[str] = ()
    options: Json = field(default_factory=dict)
    custom: Json = field(default_factory=dict)
    minimum: float | None = 0
    maximum: float | None = None
    overrides: Sequence[Json] = ()
    transformations: Sequence[Json] = ()


def graph(title: str, question: str, *queries: Query, stacked: bool = False, **rest: Any) -> Panel:
    """Return a panel of lines over time."""
    custom: Json = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 30 if stacked else 8,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "line" if rest.get("limits") else "off"},
    }
    options: Json = {
        "legend": {
            "displayMode": "table",
            "placement": "bottom",
            "showLegend": True,
            "calcs": ["lastNotNull", "max"],
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return Panel("timeseries", title, question, queries, options=options, custom=custom, **rest)


def stat(title: str, question: str, query: Query, **rest: Any) -> Panel:
    """Return a panel of one figure, which is coloured by its limits."""
    options: Json = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "background" if rest.get("limits") else "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "auto",
    }
    return Panel("stat", title, question, [query], options=options, **{"width": 4, "height": 4, **rest})


def bars(title: str, question: str, query: Query, **rest: Any) -> Panel:
    """Return a panel of one bar for each series, by their last values."""
    options: Json = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "displayMode": "basic",
        "orientation": "horizontal",
        "showUnfilled": True,
        "valueMode": "color",
    }
    return Panel("bargauge", title, question, [query], options=options, **rest)


def table(
    title: str, question: str, query: Query, *, columns: Sequence[str], link: Json, **rest: Any
) -> Panel:
    """Return a table of a query's labels as they are now; ``link`` is put on the first of the columns."""
    override: Json = {
        "matcher": {"id": "byName", "options": columns[0]},
        "properties": [{"id": "links", "value": [link]}],
    }
    organise: Json = {
        "id": "filterFieldsByName",
        "options": {"include": {"names": list(columns)}},
    }
    return Panel(
        "table",
        title,
        question,
        [query],
        options={"showHeader": True, "cellHeight": "sm"},
        overrides=[override],
        transformations=[organise],
        **rest,
    )


def place(rows: Iterable[tuple[str, Sequence[Panel]]]) -> list[Json]:
    """Give rows of panels their ids and their places, from left to right and from top to bottom."""
    placed: list[Json] = []
    top = 0
    for title, panels in rows:
        identity = len(placed) + 1
        placed.append(
            {
                "id": identity,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1},
                "panels": [],
            }
        )
        top += 1
        left = tallest = 0
        for panel in panels:
            if left + panel.width > COLUMNS:
                left, top, tallest = 0, top + tallest, 0
            grid = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            placed.append(_render(panel, len(placed) + 1, grid))
            left += panel.width
            tallest = max(tallest, panel.height)
        top += tallest
    return placed


def variable(name: str, label: str, query: str) -> Json:
    """Return a variable of all values that a query finds; All also matches series that lack the label."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": f"variable-{name}"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "options": [],
        "hide": 0,
    }


def _render(panel: Panel, identity: int, grid: Json) -> Json:
    now = panel.kind in {"table", "bargauge"}
    steps: list[Json] = [{"color": "green", "value": None}]
    steps += [{"color": colour, "value": value} for value, colour in panel.limits]
    defaults: Json = {
        "unit": panel.unit,
        "color": {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"},
        "thresholds": {"mode": "absolute", "steps": steps},
        "custom": panel.custom,
        "mappings": [],
    }
    for name, value in (("min", panel.minimum), ("max", panel.maximum)):
        if value is not None:
            defaults[name] = value
    return {
        "id": identity,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.question,
        "datasource": DATASOURCE,
        "gridPos": grid,
        "links": [
            {"title": f"Runbook: {alert}", "url": f"{RUNBOOKS}{alert.lower()}", "targetBlank": True}
            for alert in panel.runbooks
        ],
        "fieldConfig": {"defaults": defaults, "overrides": list(panel.overrides)},
        "options": panel.options,
        "transformations": list(panel.transformations),
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend,
                "instant": now,
                "range": not now,
                "format": "table" if panel.kind == "table" else "time_series",
            }
            for number, query in enumerate(panel.queries)
        ],
    }
