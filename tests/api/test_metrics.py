"""GET /metrics: names, labels and numbers."""

import re
import time
import uuid
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from .harness import CODE_MARK, Service, csv_of, make_codes, new_campaign, token
from .world import World

TEMPLATES = {
    "/v1/{campaignId}/codes",
    "/v1/{campaignId}/codes/count",
    "/v1/{campaignId}/codes/{code}",
    "/v1/{campaignId}/uploads",
    "/v1/{campaignId}/uploads/{uploadId}",
    "/v1/{campaignId}/uploads/{uploadId}/events",
    "/v1/{campaignId}/uploads/{uploadId}/invalid",
    "/v1/{campaignId}/reserve",
    "/v1/{campaignId}/reservations/{reserveId}",
    "/v1/{campaignId}/assign",
    "/v1/{campaignId}/release",
    "/metrics",
    "/heartbeat",
    "/livez",
    "/readyz",
    "/openapi.json",
    "/docs",
    "/dev/token",
}


def scraped(service: Service) -> str:
    reply = service.get("/metrics", auth=None)
    assert reply.status == 200
    assert reply.media_type == "text/plain"
    return reply.body.decode()


def samples(service: Service) -> list[Sample]:
    """Return every sample under the name that the text has, to which the parser appends _total for counters."""
    text = scraped(service)
    return [
        sample if f"\n{sample.name}" in text else sample._replace(name=sample.name.removesuffix("_total"))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def value(service: Service, name: str, **labels: str) -> float:
    """Return the sum of all samples of the name that have the labels."""
    return sum(
        sample.value
        for sample in samples(service)
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def grows_by(service: Service, name: str, change: Callable[[], object], **labels: str) -> float:
    before = value(service, name, **labels)
    change()
    return value(service, name, **labels) - before


def test_it_is_well_formed(service: Service) -> None:
    """By the Prometheus text format, version 0.0.4."""
    text = scraped(service)
    assert text.endswith("\n")
    assert (service.get("/metrics").header("Content-Type") or "").startswith("text/plain; version=0.0.4")
    seen: set[str] = set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            name = line.split()[2]
            assert name not in seen, f"{name} has two TYPE lines"
            seen.add(name)
    keys = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in samples(service)]
    assert len(keys) == len(set(keys)), "a series came twice"


def test_names_and_labels(world: World, campaign: str) -> None:
    world.stock(campaign, make_codes(2))
    world.service.reserve(campaign, 1)
    named: dict[str, set[str]] = {}
    for sample in samples(world.service):
        named.setdefault(sample.name, set()).update(sample.labels)
    request = {"method", "path", "status"}
    operation = {"operation", "outcome"}
    expected = {
        "http_request_count": request,
        "http_response_duration_seconds_bucket": {*request, "le"},
        "http_response_duration_seconds_sum": request,
        "http_response_duration_seconds_count": request,
        "datastore_operation_duration_seconds_bucket": {*operation, "le"},
        "datastore_operation_duration_seconds_sum": operation,
        "datastore_operation_duration_seconds_count": operation,
        "upload_codes_total": {"type", "outcome"},
        "upload_bytes_total": set(),
        "upload_batches_in_flight": set(),
    }
    for name, labels in expected.items():
        assert name in named, f"{name} is missing"
        assert named[name] == labels
    assert "http_request_count_total" not in named
    for what in (r"^process_.*memory", r"^process_cpu", r"gc", r"loop.*lag"):
        assert any(re.search(what, name) for name in named), what


def test_types(world: World, campaign: str) -> None:
    world.stock(campaign, make_codes(1))
    text = scraped(world.service)
    for name, kind in (
        ("http_request_count", "counter"),
        ("http_response_duration_seconds", "histogram"),
        ("datastore_operation_duration_seconds", "histogram"),
        ("upload_codes_total", "counter"),
        ("upload_bytes_total", "counter"),
        ("upload_batches_in_flight", "gauge"),
    ):
        assert f"# TYPE {name} {kind}\n" in text


@pytest.mark.parametrize(
    ("method", "target", "template", "status"),
    [
        ("GET", "/v1/{c}/codes/count?type=tm", "/v1/{campaignId}/codes/count", 200),
        ("GET", "/v1/{c}/codes/count?type=x", "/v1/{campaignId}/codes/count", 400),
        ("GET", "/v1/{c}/reserve?count=1&type=tm", "/v1/{campaignId}/reserve", 200),
        ("POST", "/v1/{c}/reserve?count=1&type=tm", "/v1/{campaignId}/reserve", 200),
        ("HEAD", "/v1/{c}/reserve?count=1&type=tm", "/v1/{campaignId}/reserve", 405),
        ("POST", "/v1/{c}/assign", "/v1/{campaignId}/assign", 200),
        ("POST", "/v1/{c}/release", "/v1/{campaignId}/release", 200),
        ("POST", "/v1/{c}/codes", "/v1/{campaignId}/codes", 404),
        ("GET", "/heartbeat", "/heartbeat", 200),
        ("GET", "/livez", "/livez", 200),
        ("GET", "/readyz", "/readyz", 200),
        ("GET", "/metrics", "/metrics", 200),
        ("GET", "/openapi.json", "/openapi.json", 200),
        ("GET", "/docs", "/docs", 200),
    ],
)
def test_requests_are_counted_by_template(
    service: Service, campaign: str, method: str, target: str, template: str, status: int
) -> None:
    body = {"codes": ["x"], "fileKey": f"codes/{campaign}/tm/none.csv"} if method == "POST" else ...
    labels = {"method": method, "path": template, "status": str(status)}

    def ask() -> None:
        for _ in range(3):
            reply = service.request(method, target.format(c=campaign), json_body=body)
            assert reply.status == status

    extra = 1 if template == "/metrics" else 0  # the scrape before is counted by the one after
    assert grows_by(service, "http_request_count", ask, **labels) == 3 + extra
    assert grows_by(service, "http_response_duration_seconds_count", ask, **labels) == 3 + extra


def test_401_404_405_and_413_are_counted_too(service: Service, campaign: str) -> None:
    def ask() -> None:
        service.get(f"/v1/{campaign}/codes/count?type=tm", auth=None)

    assert grows_by(service, "http_request_count", ask, status="401") == 1
    assert grows_by(service, "http_request_count", lambda: service.get("/none"), status="404") == 1
    assert grows_by(service, "http_request_count", lambda: service.post("/metrics", {}), status="405") == 1
    big = b" " * (33 << 20)
    headers = {"Content-Type": "application/json"}

    def send() -> None:
        service.post(f"/v1/{campaign}/assign", body=big, headers=headers)

    assert grows_by(service, "http_request_count", send, status="413") == 1


def test_no_raw_path_and_no_code_is_a_label(world: World) -> None:
    service = world.service
    before = samples(service)
    for _ in range(30):
        campaign, code = new_campaign(), make_codes(1)[0]
        service.get(f"/{campaign}/{code}")
        service.get(f"/v1/{campaign}/{code}?type=tm")
        service.get(f"/v1/{campaign}/codes/count?type={code}")
        service.request(f"X{uuid.uuid4().hex[:6].upper()}", "/livez")
        service.request("PROPFIND", f"/v1/{campaign}/codes")
    text = scraped(service)
    assert CODE_MARK not in text
    after = samples(service)
    assert "c-" not in "".join(sample.labels.get("path", "") for sample in after)
    # A handful of new series of 20 samples each, not 30 times as many.
    assert len(after) - len(before) < 200
    odd = [sample for sample in after if sample.labels.get("path", "/livez") not in TEMPLATES]
    assert odd
    for sample in odd:
        path = sample.labels["path"]
        assert "/v1/" not in path.replace("/v1/{", ""), path
        # Other tests have their requests counted by this service, too: they may have had no token.
        allowed = {"400", "404", "405"} | ({"401"} if sample in before else set())
        assert sample.labels["status"] in allowed, sample


def test_durations(service: Service, campaign: str) -> None:
    labels = {"method": "GET", "path": "/v1/{campaignId}/codes/count", "status": "200"}
    began = time.monotonic()
    total = grows_by(service, "http_response_duration_seconds_sum", lambda: service.count(campaign), **labels)
    assert 0 < total <= time.monotonic() - began
    buckets = [
        (float(sample.labels["le"]), sample.value)
        for sample in samples(service)
        if sample.name == "http_response_duration_seconds_bucket" and labels.items() <= sample.labels.items()
    ]
    buckets.sort()
    values = [count for _, count in buckets]
    assert values == sorted(values), "buckets are cumulative"
    assert buckets[-1] == (float("inf"), value(service, "http_response_duration_seconds_count", **labels))


def test_uploads_are_counted(world: World, campaign: str) -> None:
    service = world.service
    codes = make_codes(10)
    world.stock(campaign, codes[:4])
    content = csv_of([*codes, f"{CODE_MARK}\x01", f"{CODE_MARK}\x02"])
    key = world.put(campaign, content, code_type="external")
    names = [
        (sample.labels["outcome"], sample.labels["type"])
        for sample in samples(service)
        if sample.name == "upload_codes_total"
    ]
    assert {kind for _, kind in names} <= {"tm", "external"}
    before = {
        outcome: value(service, "upload_codes_total", outcome=outcome, type="external")
        for outcome in ("inserted", "updated", "invalid")
    }
    read = value(service, "upload_bytes_total")
    assert service.upload(key).json()["count"] == {"in": 10, "inserted": 6, "updated": 4}
    after = {
        outcome: value(service, "upload_codes_total", outcome=outcome, type="external") for outcome in before
    }
    assert {outcome: after[outcome] - before[outcome] for outcome in before} == {
        "inserted": 6,
        "updated": 4,
        "invalid": 2,
    }
    assert value(service, "upload_bytes_total") - read == len(content)
    assert value(service, "upload_batches_in_flight") == 0


def test_datastore_operations_are_timed(world: World, campaign: str) -> None:
    service = world.service
    name = "datastore_operation_duration_seconds_count"
    codes = make_codes(2)
    for change in (
        lambda: world.stock(campaign, codes),
        lambda: service.count(campaign),
        lambda: service.reserve(campaign, 2),
        lambda: service.change(campaign, "release", codes),
        lambda: service.change(campaign, "assign", codes),
    ):
        assert grows_by(service, name, change) >= 1
    operations = {sample.labels["operation"] for sample in samples(service) if sample.name == name}
    assert 4 <= len(operations) < 20
    outcomes = {sample.labels["outcome"] for sample in samples(service) if sample.name == name}
    assert len(outcomes) < 10


def test_scraping_needs_no_token_and_tells_no_secret(service: Service) -> None:
    text = scraped(service)
    for secret in (CODE_MARK, "eyJ", token(), "mongodb://", "campaign_id"):
        assert secret not in text
