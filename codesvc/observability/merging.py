"""The figures of several processes as one: what one tells another, and how they are added up.

Figures travel as JSON: ``{"sums": {name: {labels: value}}, "gauges": {name: {labels: value}}}``. ``labels`` is a JSON
object in text, as aioprometheus keys its series; a value is a number, or for a histogram ``[sum, counts…]`` with the
cumulative counts of its buckets. "sums" are counters and histograms, which are added up and outlive their process;
"gauges" are merged by the rule that each declares.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson
from aioprometheus.collectors import Collector, Counter, Gauge, Histogram, Registry
from aioprometheus.histogram import Histogram as HistogramValue
from aioprometheus.metricdict import MetricDict

from codesvc.observability.metrics import Merge, MergedGauge

Number = float | int
Value = Number | list[Number]
Series = dict[str, Value]
Families = dict[str, Series]

SUMS: Final = "sums"
GAUGES: Final = "gauges"
NOTHING: Final = b'{"sums":{},"gauges":{}}'
"""The figures of nobody."""

_RULES: Final[Mapping[Merge, Callable[[Number, Number], Number]]] = {
    Merge.SUM: operator.add,
    Merge.MAX: max,
    Merge.MIN: min,
}


def figures(registry: Registry) -> bytes:
    """Return the figures of all collectors of a registry."""
    families: dict[str, Families] = {SUMS: {}, GAUGES: {}}
    for collector in registry.collectors.values():
        kind = GAUGES if isinstance(collector, Gauge) else SUMS
        families[kind][collector.name] = {
            _text(labels): _told(value) for labels, value in collector.values.store.items()
        }
    return orjson.dumps(families)


def add_sums(into: Families, told: bytes) -> None:
    """Add the counters and histograms of ``told`` to ``into``."""
    for name, series in orjson.loads(told)[SUMS].items():
        _add(into.setdefault(name, {}), series)


def sums_alone(families: Families) -> bytes:
    """Return figures of nothing but these counters and histograms."""
    return orjson.dumps({SUMS: families, GAUGES: {}})


def merged(registry: Registry, told: Sequence[bytes]) -> Registry:
    """Return a new registry with the collectors of ``registry``, and in it what the processes together have told.

    Of ``registry``, only names, types and rules are looked at. A family that it does not have is left out: all
    processes run the same code.
    """
    families: list[dict[str, Families]] = [orjson.loads(each) for each in told]
    whole = Registry()
    for collector in registry.collectors.values():
        series: Series = {}
        for each in families:
            if isinstance(collector, Gauge):
                rule = collector.merge if isinstance(collector, MergedGauge) else Merge.SUM
                _merge(series, each[GAUGES].get(collector.name, {}), _RULES[rule])
            else:
                _add(series, each[SUMS].get(collector.name, {}))
        _copy(collector, series, whole)
    return whole


def _add(into: Series, series: Series) -> None:
    for labels, value in series.items():
        known = into.get(labels)
        if known is None:
            into[labels] = value
        elif isinstance(value, list) and isinstance(known, list):
            into[labels] = [one + other for one, other in zip(known, value, strict=True)]
        elif not isinstance(value, list) and not isinstance(known, list):
            into[labels] = known + value


def _merge(into: Series, series: Series, rule: Callable[[Number, Number], Number]) -> None:
    for labels, value in series.items():
        known = into.get(labels)
        if not isinstance(value, float | int):  # what is not a number is null in JSON
            continue
        into[labels] = value if known is None or isinstance(known, list) else rule(known, value)


def _copy(collector: Collector, series: Series, registry: Registry) -> None:
    """Make a collector of the same family, with these values, in another registry."""
    made: Collector
    if isinstance(collector, Histogram):
        bounds = tuple(collector.upper_bounds)
        made = Histogram(collector.name, collector.doc, registry=registry, buckets=bounds)
        made.values.store = {_key(labels): _histogram(bounds, value) for labels, value in series.items()}
        return
    kind = Gauge if isinstance(collector, Gauge) else Counter
    made = kind(collector.name, collector.doc, registry=registry)
    made.values.store = {_key(labels): value for labels, value in series.items()}


def _told(value: Any) -> Value:
    if isinstance(value, HistogramValue):
        return [value.sum, *value.buckets.values()]
    number: Number = value
    return number


def _histogram(bounds: tuple[float, ...], value: Value) -> HistogramValue:
    made = HistogramValue(*bounds)
    if isinstance(value, list):
        made.sum, *counts = value
        made.buckets.update(zip(made.buckets, map(int, counts), strict=True))
        made.observations = int(counts[-1])
    return made


# NOTE: leans on how aioprometheus keys a series: by its labels as JSON in bytes, or by a word where there are none.
def _text(labels: bytes | str) -> str:
    return labels.decode() if isinstance(labels, bytes) else labels


def _key(labels: str) -> bytes | str:
    return labels if labels == MetricDict.EMPTY_KEY else labels.encode()
