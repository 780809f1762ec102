"""Rules and dashboard ask for metrics, labels and values that docs/metrics.md lists, and for none that nobody sends."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import pytest

from .catalogue import FOREIGN, TARGET_LABELS, documented, metric_of
from .dashboardfile import queries
from .promql import Reading, read
from .rulefiles import rules

RECORDED = {rule.record: read(rule.expr).grouped for rule in rules() if rule.record is not None}
MADE: Mapping[str, AbstractSet[str]] = {**RECORDED, **FOREIGN}
"""What codesvc does not send itself, with its labels."""

EXPRESSIONS = {f"rule {rule.record or rule.alert}": rule.expr for rule in rules()} | {
    f"panel {name}": expr for name, expr in queries().items()
}


def labels_of(name: str) -> Mapping[str, frozenset[str]]:
    """Return the labels that a metric may have, each with the values that are listed for it."""
    if name in MADE:
        return dict.fromkeys(MADE[name], frozenset())
    metric = metric_of(name, documented())
    assert metric is not None, f"docs/metrics.md does not list {name}"
    return metric.labels


@pytest.mark.parametrize("what", EXPRESSIONS)
def test_it_asks_for_what_is_documented(what: str) -> None:
    reading = read(EXPRESSIONS[what])
    assert reading.selectors, "it asks for nothing"
    assert_known(reading)


def assert_known(reading: Reading) -> None:
    grouped = set(TARGET_LABELS) | {"le"}
    for name, matchers in reading.selectors:
        labels = labels_of(name)
        grouped |= set(labels)
        for label, operator, value in matchers:
            assert label in TARGET_LABELS or label in labels, f"{name} has no label {label}"
            listed = labels.get(label)
            if listed and operator in {"=", "!="}:
                assert value in listed, f"{label} of {name} is never {value}"
    assert reading.grouped <= grouped, f"grouped by {reading.grouped - grouped}, which nothing has"


@pytest.mark.parametrize(
    "wrong",
    [
        "sum(rate(no_such_total[5m]))",
        'upload_codes_total{kind="tm"}',
        'upload_codes_total{outcome="stored"}',
        "upload_codes_total_bucket",
        "sum by (campaign) (upload_bytes_total)",
    ],
)
def test_what_is_wrong_is_seen(wrong: str) -> None:
    with pytest.raises(AssertionError):
        assert_known(read(wrong))
