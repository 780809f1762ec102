"""docs/metrics.md and what a live service shows are the same, and Prometheus's own tools find nothing wrong with it."""

import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from aioprometheus.collectors import MetricsTypes
from prometheus_client.parser import text_string_to_metric_families

from codesvc.observability.metrics import MergedGauge
from codesvc.observability.telemetry import Telemetry

from .harness import ROOT, Service, csv_of, eventually, make_codes, new_campaign
from .world import Hosting, World

DOCUMENT = ROOT / "docs" / "metrics.md"

GIVEN_NAMES = {
    # The contract gives this name, and says that nothing is appended to it.
    'http_request_count counter metrics should have "_total" suffix',
    'http_request_count non-histogram and non-summary metrics should not have "_count" suffix',
}
"""What promtool has against names, all of which are given."""

_KINDS = {"counter", "gauge", "histogram"}


@dataclass(frozen=True, slots=True)
class Documented:
    """A row of the document."""

    kind: str
    labels: frozenset[str]
    merge: str
    answer: str


def documented() -> dict[str, Documented]:
    """Read every row of the document's tables: name, kind and unit, labels, processes, answer."""
    found: dict[str, Documented] = {}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("| `"):
            continue
        assert len(cells) == 5, line
        names, kind, labels, merge, answer = cells
        # Values of labels stand in brackets behind them.
        outside = re.sub(r"\([^)]*\)", "", labels)
        for name in re.findall(r"`([a-z_]+)`", names):
            assert name not in found, f"{name} is there twice"
            found[name] = Documented(
                kind.partition(",")[0], frozenset(re.findall(r"`(\w+)`", outside)), merge, answer
            )
    return found


@pytest.fixture(scope="module")
def busy(
    hosting: Hosting, api_settings: dict[str, str | None], new_database: Callable[[str], str]
) -> Iterator[World]:
    """A service that has done a bit of everything, and samples its stock all the time."""
    with hosting(api_settings | {"CODESVC_STOCK_INTERVAL": "0.2"}, new_database("metrics")) as world:
        service = world.service
        campaign, codes = new_campaign(), make_codes(20)
        world.stock(campaign, codes)
        world.stock(campaign, make_codes(3), code_type="external")
        assert world.upload(campaign, csv_of([*codes[:2], "bad\x01"])).status == 200
        assert world.upload(campaign, b"bad\x01\n", strict=True).status == 422
        assert service.upload(f"codes/{campaign}/tm/none.csv").status == 404
        held = [one["code"] for one in service.reserve(campaign, 5)["codes"]]
        service.reserve(campaign, 50)
        service.change(campaign, "assign", held[:2])
        service.change(campaign, "release", held[2:3])
        service.count(campaign)
        assert service.get("/none").status == 404
        # Until a sample shows all of it.
        eventually(lambda: 'inventory_codes{status="assigned",type="tm"} 2\n' in text_of(service), limit=60)
        yield world


def text_of(service: Service) -> str:
    reply = service.get("/metrics", auth=None)
    assert reply.status == 200
    return reply.body.decode()


def test_every_metric_is_documented_and_every_documented_one_is_there(busy: World) -> None:
    text = text_of(busy.service)
    live: dict[str, tuple[str, frozenset[str]]] = {}
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    for name, kind in types.items():
        suffix = r"(?:_bucket|_sum|_count)" if kind == "histogram" else ""
        series = re.findall(rf"^{name}{suffix}(?:\{{(.*)\}})? \S+$", text, re.MULTILINE)
        assert series, f"{name} has no series"
        labels = {label for one in series for label in re.findall(r'(\w+)="', one)} - {"le"}
        live[name] = kind, frozenset(labels)
    assert {name: (one.kind, one.labels) for name, one in documented().items()} == live


def test_every_row_says_what_it_answers_and_how_it_merges() -> None:
    gauges = {one.name: one for one in Telemetry().registry.get_all() if isinstance(one, MergedGauge)}
    kinds = {one.name: one.kind for one in Telemetry().registry.get_all()}
    rows = documented()
    assert len(rows) > 30
    for name, row in rows.items():
        assert row.kind in _KINDS, name
        assert len(row.answer) > 10, name
        if kinds[name] is MetricsTypes.gauge:
            assert row.merge == gauges[name].merge.value, name
        else:
            assert row.merge == "sum", name


def test_help_and_type_come_once_and_before_the_series(busy: World) -> None:
    text = text_of(busy.service)
    for name in documented():
        first = text.index(f"# HELP {name} ")
        assert text.index(f"# TYPE {name} ") > first
        assert text.count(f"# TYPE {name} ") == 1
        assert f"\n{name}" not in text[:first]


def test_prometheus_parses_and_promtool_lints_it(busy: World, program: Callable[..., Path]) -> None:
    text = text_of(busy.service)
    families = {family.name for family in text_string_to_metric_families(text)}
    assert {name.removesuffix("_total") for name in documented()} == families
    done = subprocess.run(
        [program("promtool"), "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    problems = {line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()}
    assert problems <= GIVEN_NAMES, problems
    assert done.returncode in {0, 3}, "3: it found something to say, all of it known"


def test_figures_of_what_was_done(busy: World) -> None:
    lines = text_of(busy.service).splitlines()
    for line in (
        "inventory_campaigns 1",
        'uploads_total{outcome="succeeded",type="tm"} 2',
        'uploads_total{outcome="succeeded",type="external"} 1',
        'uploads_total{outcome="rejected",type="tm"} 2',
        'uploads_total{outcome="failed",type="tm"} 0',
        'reserve_requested_codes_total{type="tm"} 55',
        'reserve_lent_codes_total{type="tm"} 20',
        'reserve_short_total{type="tm"} 1',
        "codesvc_workers 1",
        "uploads_running 0",
        "upload_stalled_seconds 0",
    ):
        assert any(
            one.split(" ")[0] == line.split(" ")[0] and float(one.split(" ")[1]) == float(line.split(" ")[1])
            for one in lines
            if not one.startswith("#")
        ), line
