"""deploy/prometheus/rules: Prometheus takes them, alerts fire when they should, and somebody knows what to do then."""

from collections.abc import Callable
from pathlib import Path

import pytest

from .programs import run
from .rulefiles import OPERATIONS, RULE_FILES, UNIT_TESTS, alerts, paragraphs, tried_alerts

SEVERITIES = {"critical", "warning"}
PARTS_OF_A_RUNBOOK = ("*Means*", "*Callers", "*First*", "*Ends*")


def test_prometheus_takes_the_rules(program: Callable[..., Path]) -> None:
    assert RULE_FILES
    run(program("promtool"), "check", "rules", "--lint=all", "--lint-fatal", *RULE_FILES)


@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda file: file.name.partition(".")[0])
def test_alerts_fire_when_they_should_and_only_then(program: Callable[..., Path], file: Path) -> None:
    run(program("promtool"), "test", "rules", file)


def test_every_rule_file_has_its_unit_tests() -> None:
    assert {file.stem for file in RULE_FILES} == {file.name.partition(".")[0] for file in UNIT_TESTS}


@pytest.mark.parametrize("name", alerts())
def test_every_alert_is_tried_both_ways(name: str) -> None:
    firing, silent = tried_alerts()
    assert name in firing, "no unit test fires it"
    assert name in silent, "no unit test comes near to firing it"


@pytest.mark.parametrize("name", alerts())
def test_every_alert_says_what_is_wrong_and_how_bad_it_is(name: str) -> None:
    rule = alerts()[name]
    assert name.startswith("Codesvc"), "a Prometheus serves more than one service"
    assert rule.labels["severity"] in SEVERITIES
    assert set(rule.annotations) == {"summary", "description", "runbook"}
    assert rule.annotations["description"].endswith(".")
    assert not rule.annotations["summary"].endswith(".")


@pytest.mark.parametrize("name", alerts())
def test_every_alert_has_a_runbook(name: str) -> None:
    document, _, anchor = alerts()[name].annotations["runbook"].partition("#")
    assert document == f"docs/{OPERATIONS.name}"
    assert anchor == name.lower()
    text = paragraphs().get(anchor, "")
    for part in PARTS_OF_A_RUNBOOK:
        assert part in text, f"the runbook does not say {part}"


def test_no_runbook_is_of_an_alert_that_is_gone() -> None:
    known = {name.lower() for name in alerts()}
    assert {anchor for anchor in paragraphs() if anchor.startswith("codesvc")} == known
