"""The rules, their unit tests and their runbooks, as files say them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
PROMETHEUS: Final = ROOT / "deploy" / "prometheus"
RULE_FILES: Final = tuple(sorted((PROMETHEUS / "rules").glob("*.yaml")))
UNIT_TESTS: Final = tuple(sorted((Path(__file__).parent / "rules").glob("*.test.yaml")))
OPERATIONS: Final = ROOT / "docs" / "operations.md"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: a name that it records, or an alert."""

    record: str | None
    alert: str | None
    expr: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@cache
def rules() -> tuple[Rule, ...]:
    """Return every rule of every file."""
    found: list[Rule] = []
    for file in RULE_FILES:
        for group in _load(file)["groups"]:
            for rule in group["rules"]:
                texts = {name: rule.get(name, {}) for name in ("labels", "annotations")}
                found.append(Rule(rule.get("record"), rule.get("alert"), rule["expr"], **texts))
    return tuple(found)


@cache
def alerts() -> Mapping[str, Rule]:
    """Return every alert by its name."""
    found = {rule.alert: rule for rule in rules() if rule.alert is not None}
    assert len(found) == sum(rule.alert is not None for rule in rules()), "two alerts have one name"
    return found


@cache
def tried_alerts() -> tuple[set[str], set[str]]:
    """Return the alerts that a unit test fires, and those that one comes near to firing."""
    firing: set[str] = set()
    silent: set[str] = set()
    for file in UNIT_TESTS:
        for test in _load(file)["tests"]:
            for expectation in test["alert_rule_test"]:
                (firing if expectation["exp_alerts"] else silent).add(expectation["alertname"])
    return firing, silent


def paragraphs() -> dict[str, str]:
    """Return the text below each third-level heading of docs/operations.md, by the heading's anchor."""
    parts = re.split(r"^(#{2,3}) (.+)\n", OPERATIONS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {
        re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")): text
        for level, title, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
        if level == "###"
    }


def _load(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))
