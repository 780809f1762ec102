"""Codes and tokens are secrets: what the service writes and exports tells none of them."""

import gzip
import http.server
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from pymongo import MongoClient

from .harness import CODE_MARK, Document, Service, csv_of, eventually, make_codes, new_campaign, token
from .world import World


def every_kind_of_request(world: World) -> str:
    """Use every route, well and badly, with codes in every place a careless caller may put them."""
    service = world.service
    campaign = new_campaign()
    codes = make_codes(30)
    world.stock(campaign, codes)
    world.upload(campaign, csv_of([*codes, f"{CODE_MARK}\x01"]))
    world.upload(campaign, csv_of([f"{CODE_MARK}\x01"]), strict=True)
    world.upload(campaign, f'{codes[0]}\n"{CODE_MARK}{"x" * (5 << 20)}'.encode())
    lent = [item["code"] for item in service.reserve(campaign, 5)["codes"]]
    service.change(campaign, "assign", lent[:2])
    service.change(campaign, "release", lent[2:])
    service.count(campaign)
    code = codes[0]
    service.get(f"/v1/{campaign}/codes/{code}")
    service.get(f"/v1/{code}%20/codes/count?type=tm")
    service.get(f"/{code}?secretly={code}")
    service.get(f"/v1/{campaign}/codes/count?type={code}&status={code}&access_token={token()}")
    service.get(f"/v1/{campaign}/reserve?count={code}&type=tm")
    service.get(f"/v1/{campaign}/codes/count?type=tm", auth=f"Bearer {token()}x")
    service.get(f"/v1/{campaign}/codes/count?type=tm", auth=token())
    service.get(f"/v1/{campaign}/codes/count?type=tm", auth=f"Bearer {code}")
    service.post(f"/v1/{campaign}/codes", {"fileKey": code})
    service.post(f"/v1/{campaign}/assign", {"codes": code})
    service.post(f"/v1/{campaign}/assign", {"codes": [code, 5]})
    service.post(f"/v1/{campaign}/assign", {"codes": [f"{code}\ud800"]})
    service.post(f"/v1/{campaign}/assign", body=f'{{"codes": ["{code}"'.encode())
    service.post(f"/v1/{campaign}/assign", body=code.encode(), headers={"Content-Type": code})
    service.get(
        "/livez", headers={"X-Forwarded-For": code, "Referer": f"https://x/?c={code}", "User-Agent": code}
    )
    return campaign


def test_the_log_tells_no_secret(world: World) -> None:
    campaign = every_kind_of_request(world)
    lines = eventually(
        lambda: [line for line in world.service.log_lines() if campaign in json.dumps(line)], limit=5
    )
    assert len(lines) > 10
    world.service.check_log()


def test_problems_repeat_no_secret(service: Service, campaign: str) -> None:
    code = make_codes(1)[0]
    for reply in (
        service.get(f"/v1/{campaign}/reserve?count={code}&type=tm"),
        service.get(f"/v1/{campaign}/reserve?count=1&type={code}"),
        service.get(f"/{code}"),
        service.post(f"/v1/{campaign}/assign", {"codes": [code, 5]}),
        service.post(f"/v1/{campaign}/assign", {"codes": code}),
        service.post(f"/v1/{campaign}/assign", body=f'["{code}"'.encode()),
        service.get(f"/v1/{campaign}/codes/count?type=tm", auth=f"Bearer {code}"),
    ):
        assert reply.status >= 400
        assert CODE_MARK not in reply.body.decode()
        assert CODE_MARK not in str(reply.headers)


def test_access_log(service: Service, campaign: str) -> None:
    correlation = uuid.uuid4().hex
    headers = {"X-Correlation-ID": correlation}
    service.get(f"/v1/{campaign}/codes/count?type=tm", headers=headers)
    (line,) = eventually(lambda: service.log_lines_of(correlation), limit=5)
    values = list(line.values())
    assert "GET" in values
    assert 200 in values
    assert "/v1/{campaignId}/codes/count" in values
    assert any(name.lower().startswith("duration") for name in line)


def test_a_log_line_for_every_request_of_a_failure(service: Service, campaign: str) -> None:
    correlation = uuid.uuid4().hex
    headers = {"X-Correlation-ID": correlation}
    service.get(f"/v1/{campaign}/codes/count?type=none", headers=headers)
    lines = eventually(lambda: service.log_lines_of(correlation), limit=5)
    assert any(400 in line.values() for line in lines)


@dataclass
class Collector:
    """An OTLP/HTTP receiver that keeps what it is sent."""

    port: int = 0
    spans: list[Any] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    made = Collector()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path.endswith("/v1/traces"):
                request = ExportTraceServiceRequest.FromString(body)
                made.raw.append(body)
                made.spans += [
                    span
                    for resource in request.resource_spans
                    for scope in resource.scope_spans
                    for span in scope.spans
                ]
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def traced(
    mongo: MongoClient[Document],
    s3: Any,
    api_bucket: str,
    api_settings: dict[str, str | None],
    logs: Path,
    collector: Collector,
    new_database: Callable[[str], str],
) -> Iterator[World]:
    database = new_database("traced")
    settings = api_settings | {
        "CODESVC_MONGO_DATABASE": database,
        "CODESVC_BATCH_SIZE": "10",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    service = Service(logs / "traced.log", **settings)
    try:
        yield World(service.start(), mongo[database], s3, api_bucket)
    finally:
        service.stop()


CALLER = "00f067aa0ba902b7"


def spans_of(collector: Collector, trace: str) -> list[Any]:
    """Wait for all spans of a trace: they are sent in the order in which they end, the server's own last."""

    def found() -> list[Any] | None:
        spans = [span for span in collector.spans if span.trace_id.hex() == trace]
        return spans if any(span.parent_span_id.hex() == CALLER for span in spans) else None

    spans: list[Any] = eventually(found, limit=10)
    return spans


def test_spans_of_an_upload(traced: World, collector: Collector, campaign: str) -> None:
    """A server span below the caller's, with the S3 and datastore operations, and batches, below it."""
    trace, correlation = uuid.uuid4().hex, uuid.uuid4().hex
    key = traced.put(campaign, csv_of(make_codes(50)))
    headers = {"traceparent": f"00-{trace}-{CALLER}-01", "X-Correlation-ID": correlation}
    reply = traced.service.post(f"/v1/{campaign}/codes", {"fileKey": key}, headers=headers)
    assert reply.status == 200
    spans = spans_of(collector, trace)
    by_id = {span.span_id.hex(): span for span in spans}
    roots = [span for span in spans if span.parent_span_id.hex() not in by_id]
    assert [span.parent_span_id.hex() for span in roots] == [CALLER]
    assert roots[0].kind == 2, "the server's span"
    batches = [span for span in spans if "batch" in span.name.lower()]
    assert len(batches) == 5
    for span in spans:
        values = [attribute.value.string_value for attribute in span.attributes]
        assert correlation in values, f"{span.name} lacks the correlation ID"
    for line in traced.service.log_lines_of(correlation):
        assert trace in line.values()


@pytest.mark.parametrize("action", ["count", "reserve", "assign", "release"])
def test_spans_of_a_small_request(traced: World, collector: Collector, campaign: str, action: str) -> None:
    codes = make_codes(5)
    traced.stock(campaign, codes)
    trace, correlation = uuid.uuid4().hex, uuid.uuid4().hex
    headers = {"traceparent": f"00-{trace}-{CALLER}-01", "X-Correlation-ID": correlation}
    service = traced.service
    reply = {
        "count": lambda: service.get(f"/v1/{campaign}/codes/count?type=tm", headers=headers),
        "reserve": lambda: service.get(f"/v1/{campaign}/reserve?count=2&type=tm", headers=headers),
        "assign": lambda: service.post(f"/v1/{campaign}/assign", {"codes": codes}, headers=headers),
        "release": lambda: service.post(f"/v1/{campaign}/release", {"codes": codes}, headers=headers),
    }[action]()
    assert reply.status == 200
    for span in spans_of(collector, trace):
        values = [attribute.value.string_value for attribute in span.attributes]
        assert correlation in values, f"{span.name} lacks the correlation ID"


def test_spans_tell_no_secret(traced: World, collector: Collector) -> None:
    every_kind_of_request(traced)
    # Spans are sent in order, so those before have arrived with this one.
    last = uuid.uuid4().hex
    traced.service.get("/livez", headers={"traceparent": f"00-{last}-{CALLER}-01"})
    traced.service.get("/v1/c/codes/count?type=tm", headers={"traceparent": f"00-{last}-{CALLER}-01"})
    spans_of(collector, last)
    traced.service.check_log()
    for span in list(collector.spans):
        for attribute in span.attributes:
            assert CODE_MARK not in str(attribute.value), f"{span.name} tells a code in {attribute.key}"
    for body in list(collector.raw):
        assert CODE_MARK.encode() not in body, "a span tells a code"
        assert b"eyJ" not in body, "a span tells a token"
        assert b"access_token" not in body, "a span tells a query string"
        assert b"secretly" not in body, "a span tells a query string"
