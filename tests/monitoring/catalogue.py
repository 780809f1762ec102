"""The metrics that docs/metrics.md promises, with their labels and the values that it lists for them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from .rulefiles import ROOT

DOCUMENT: Final = ROOT / "docs" / "metrics.md"

# Put on by Prometheus when it scrapes; the middle two in Kubernetes only.
TARGET_LABELS: Final = frozenset({"job", "instance", "namespace", "pod"})

# Not of codesvc: Prometheus' own, and kube-state-metrics, which need not be there.
FOREIGN: Final[Mapping[str, frozenset[str]]] = {
    "up": frozenset(),
    "ALERTS": frozenset({"alertname", "alertstate"}),
    "kube_pod_container_resource_limits": frozenset({"container", "resource"}),
}

_HISTOGRAM_PARTS: Final = ("_bucket", "_sum", "_count")


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; a label without values listed takes any."""

    name: str
    kind: str
    labels: Mapping[str, frozenset[str]]


@cache
def documented() -> Mapping[str, Metric]:
    """Return the metrics of the tables by name."""
    found: dict[str, Metric] = {}
    columns: list[str] = []
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            columns = []
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not columns:
            columns = cells
            continue
        row = dict(zip(columns, cells, strict=True))
        if "name" not in row or set(row["name"]) <= set("-: "):
            continue
        kind = row["type, unit"].partition(",")[0]
        labels = _labels(row["labels"])
        for name in re.findall(r"`([a-z_]+)`", row["name"]):
            found[name] = Metric(name, kind, labels)
    return found


def metric_of(sample: str, metrics: Mapping[str, Metric]) -> Metric | None:
    """Return the metric that a sample belongs to: those of a histogram have a suffix."""
    if sample in metrics:
        return metrics[sample]
    for part in _HISTOGRAM_PARTS:
        found = metrics.get(sample.removesuffix(part))
        if sample.endswith(part) and found is not None and found.kind == "histogram":
            return found
    return None


def _labels(cell: str) -> dict[str, frozenset[str]]:
    return {
        name: frozenset(re.findall(r"`([^`]+)`", values))
        for name, values in re.findall(r"`(\w+)`(?: \(([^)]*)\))?", cell)
    }
