"""A real Prometheus scrapes a real service: it finds what was done, every rule works, and so does every panel."""

import re
import time

from .catalogue import FOREIGN, documented, metric_of
from .conftest import CODES, INVALID_ROWS, RESERVED_EACH, RESERVES, Scraped
from .dashboardfile import queries
from .promql import read
from .rulefiles import rules

# What a service without trouble, and without Kubernetes around it, has nothing to say about.
SILENT_PANELS = {"Errors by route and status A", "Failed operations and retries A", "Alerts A", "Memory B"}

# What a busy machine can bring about.
MATTERS_OF_SPEED = {
    "CodesvcEventLoopLag",
    "CodesvcReservesSlow",
    "CodesvcCallsSlow",
    "CodesvcUploadsSlow",
    "CodesvcPoolExhausted",
}


def test_the_target_is_up_and_nothing_is_wrong_with_what_it_sends(scraped: Scraped) -> None:
    (target,) = scraped.prometheus.ask("/api/v1/targets")["activeTargets"]
    assert target["health"] == "up", target
    assert target["lastError"] == ""
    assert target["labels"]["job"] == "codesvc"
    assert scraped.prometheus.value("up") == 1
    sent, kept = (
        scraped.prometheus.value(f"scrape_samples_{what}") for what in ("scraped", "post_metric_relabeling")
    )
    assert sent == kept
    assert sent is not None
    assert sent > 100
    assert scraped.prometheus.complaints() == []


def test_counters_say_what_was_done(scraped: Scraped) -> None:
    """The traffic went twice."""
    route = "/v1/{campaignId}"
    for expr, wanted in (
        (f'http_request_count{{path="{route}/reserve", method="GET", status="200"}}', 2 * RESERVES),
        (f'http_response_duration_seconds_count{{path="{route}/reserve", status="200"}}', 2 * RESERVES),
        (f'http_request_count{{path="{route}/codes", status="200"}}', 2),
        (f'http_request_count{{path="{route}/codes", status="404"}}', 2),
        (f'http_request_count{{path="{route}/codes/count", status="401"}}', 2),
        ('upload_codes_total{type="tm", outcome="inserted"}', 2 * CODES),
        ('upload_codes_total{type="tm", outcome="invalid"}', 2 * INVALID_ROWS),
        ('uploads_total{type="tm", outcome="succeeded"}', 2),
        ('uploads_total{type="tm", outcome="failed"}', 0),
        ("upload_duration_seconds_count{outcome='succeeded'}", 2),
        ('reserve_lent_codes_total{type="tm"}', 2 * RESERVES * RESERVED_EACH),
        ('reserve_short_total{type="tm"}', 0),
        ('count_checks_total{outcome="different"}', 0),
        ("uploads_running", 0),
        ("codesvc_workers", 1),
        ("upload_batches_in_flight", 0),
        ("path:http_request_count:rate5m{path='/v1/{campaignId}/reserve'} > bool 0", 1),
        ("job:http_request_errors:ratio_rate5m", 0),
    ):
        assert scraped.prometheus.value(expr) == wanted, expr


def test_the_stock_is_what_is_left_after_all_that(scraped: Scraped) -> None:
    """Of each campaign, one reserve was assigned, and another given back."""
    left = CODES - (RESERVES - 1) * RESERVED_EACH
    lowest = 'campaign_type:inventory_lowest_available_codes:latest{type="tm"}'
    total = 'type_status:inventory_codes:latest{type="tm", status="available"}'
    scraped.prometheus.eventually(
        lambda: [value for _, value in scraped.prometheus.series(lowest)] == [left, left]
    )
    scraped.prometheus.eventually(lambda: scraped.prometheus.value(total) == 2 * left)


def test_every_rule_can_be_evaluated(scraped: Scraped) -> None:
    def evaluated() -> list[dict[str, str]]:
        groups = scraped.prometheus.ask("/api/v1/rules")["groups"]
        found = [rule for group in groups for rule in group["rules"]]
        return [] if any(rule["health"] == "unknown" for rule in found) else found

    found = scraped.prometheus.eventually(evaluated)
    assert len(found) == len(rules())
    assert [(rule["name"], rule.get("lastError")) for rule in found if rule["health"] != "ok"] == []


def test_a_service_without_trouble_alerts_nobody(scraped: Scraped) -> None:
    """Nor is any alert about to, as soon as the first sample of the stock has been looked at."""

    def quiet() -> bool:
        found = scraped.prometheus.ask("/api/v1/alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in found} <= MATTERS_OF_SPEED

    scraped.prometheus.eventually(quiet)


def needed(expr: str) -> set[str]:
    """Return the metrics that an expression needs, through the names that rules record."""
    recorded = {rule.record: rule.expr for rule in rules() if rule.record is not None}
    names = read(expr).metrics
    return {name for name in names if name not in recorded}.union(
        *(needed(recorded[name]) for name in names if name in recorded)
    )


def test_what_rules_and_dashboard_ask_for_is_sent(scraped: Scraped) -> None:
    text = scraped.service.get("/metrics", auth=None).body.decode()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, flags=re.MULTILINE))
    labels: dict[str, set[str]] = {}
    for name, pairs in re.findall(r"^([a-z]\w*)(?:\{(.*)\})? ", text, flags=re.MULTILINE):
        labels.setdefault(name, set()).update(re.findall(r'(\w+)="', pairs))
    metrics = documented()
    for expr in (*(rule.expr for rule in rules()), *queries().values()):
        for sample in needed(expr) - set(FOREIGN):
            metric = metric_of(sample, metrics)
            assert metric is not None, sample
            assert kinds.get(metric.name) == metric.kind, metric.name
            assert labels[sample] - {"le"} == set(metric.labels), sample


def test_every_panel_shows_something(scraped: Scraped) -> None:
    now = time.time()
    silent = set()
    for name, expr in queries().items():
        found = scraped.prometheus.ask("/api/v1/query_range", query=expr, start=now - 10, end=now, step=1)
        if not found["result"]:
            silent.add(name)
    assert silent <= SILENT_PANELS
