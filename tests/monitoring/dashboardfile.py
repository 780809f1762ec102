"""The dashboard that is committed, and its queries as Prometheus would get them."""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from .rulefiles import ROOT

GRAFANA: Final = ROOT / "deploy" / "grafana"
DASHBOARD: Final = GRAFANA / "codesvc.json"

_VALUES: Final = {
    "$__rate_interval": "1m",
    "$job": "codesvc",
    "$namespace": ".*",
    "$pod": ".*",
}
"""What Grafana puts in place of variables; of an interval, four scrapes."""


def load() -> Any:
    """Return the dashboard's JSON."""
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))


def panels() -> list[Any]:
    """Return its panels, rows apart."""
    return [panel for panel in load()["panels"] if panel["type"] != "row"]


@cache
def queries() -> Mapping[str, str]:
    """Return every expression with its variables filled in, by the panel's title and the query's letter."""
    found = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in panels()
        for target in panel["targets"]
    }
    found |= {annotation["name"]: annotation["expr"] for annotation in load()["annotations"]["list"]}
    for name, expr in found.items():
        for variable, value in _VALUES.items():
            expr = expr.replace(variable, value)  # noqa: PLW2901
        found[name] = expr
    return found
