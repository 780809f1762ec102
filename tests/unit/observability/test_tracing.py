"""Tracing: spans of a process of its own, as an OTLP receiver decodes them; and nothing where nobody asked."""

import gzip
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from codesvc.observability.tracing import active_tracer, configure_tracing, tracing_wanted

ROOT = Path(__file__).parents[3]
PROGRAM = Path(__file__).with_name("traced_service.py")
CLIENTS = Path(__file__).with_name("traced_clients.py")
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


@dataclass
class Receiver:
    """An OTLP/HTTP collector (opentelemetry.io/docs/specs/otlp, binary protobuf) that keeps what it is sent."""

    port: int = 0
    requests: list[ExportTraceServiceRequest] = field(default_factory=list)

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def one(self, name: str) -> Span:
        (span,) = [span for span in self.spans if span.name == name]
        return span


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            receiver.requests.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.port = server.server_port
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield receiver
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def run(program: Path = PROGRAM, *arguments: str, **environment: str) -> str:
    path = os.pathsep.join([str(ROOT), *sys.path])
    done = subprocess.run(
        [sys.executable, str(program), *arguments],
        env={"PYTHONPATH": path, "PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def log(receiver: Receiver) -> list[dict[str, Any]]:
    """The log of a process whose spans the receiver got."""
    endpoint = f"http://127.0.0.1:{receiver.port}"
    return [orjson.loads(line) for line in run(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint).splitlines()]


@pytest.mark.usefixtures("log")
class TestSpans:
    """What the receiver got."""

    def test_a_server_span_continues_the_callers_trace(self, receiver: Receiver) -> None:
        span = receiver.one("POST /v1/{campaignId}/codes")
        assert span.kind == Span.SPAN_KIND_SERVER
        assert span.trace_id.hex() == TRACE_ID
        assert span.parent_span_id.hex() == "b7ad6b7169203331"
        told = attributes(span)
        assert told["http.request.method"] == "POST"
        assert told["http.route"] == "/v1/{campaignId}/codes"
        assert told["http.response.status_code"] == 200
        assert told["codesvc.campaign_id"] == "77"

    def test_an_upload_and_its_batches(self, receiver: Receiver) -> None:
        server = receiver.one("POST /v1/{campaignId}/codes")
        upload = receiver.one("upload")
        assert upload.parent_span_id == server.span_id
        told = attributes(upload)
        assert told["codesvc.upload.inserted"] == 12
        assert told["codesvc.upload.bytes"] == 100
        batches = [span for span in receiver.spans if span.name == "upload.batch"]
        assert sorted(attributes(span)["codesvc.upload.codes"] for span in batches) == [5, 7]
        assert {span.parent_span_id for span in batches} == {upload.span_id}
        inserts = [span for span in receiver.spans if span.name == "datastore.insert"]
        assert {span.parent_span_id for span in inserts} == {span.span_id for span in batches}
        assert receiver.one("storage.get").parent_span_id == upload.span_id

    def test_every_span_carries_the_correlation_id(self, receiver: Receiver) -> None:
        assert {attributes(span)["codesvc.correlation_id"] for span in receiver.spans} == {"c-1"}

    def test_the_service_is_named(self, receiver: Receiver) -> None:
        (resource,) = {
            attributes(spans.resource)["service.name"]
            for request in receiver.requests
            for spans in request.resource_spans
        }
        assert resource == "codesvc-test"

    def test_failures(self, receiver: Receiver) -> None:
        failed = receiver.one("GET /v1/{campaignId}/codes/count")
        assert failed.status.code == Status.STATUS_CODE_ERROR
        assert attributes(failed)["http.response.status_code"] == 500
        broken = receiver.one("datastore.broken")
        assert (broken.status.code, broken.status.message) == (Status.STATUS_CODE_ERROR, "ValueError")
        assert receiver.one("GET").status.code == Status.STATUS_CODE_UNSET

    def test_nothing_secret_and_no_query_string(self, receiver: Receiver) -> None:
        text = "".join(str(span) for span in receiver.spans)
        for word in ("SECRET", "count=1", "type=tm", "Bearer", "eyJ"):
            assert word not in text

    def test_probes_are_not_traced(self, receiver: Receiver) -> None:
        assert not [span for span in receiver.spans if "livez" in span.name]

    def test_log_lines_name_their_span(self, receiver: Receiver, log: list[dict[str, Any]]) -> None:
        (line,) = [line for line in log if line.get("route") == "/v1/{campaignId}/codes"]
        assert line["traceId"] == TRACE_ID
        assert line["spanId"] == receiver.one("POST /v1/{campaignId}/codes").span_id.hex()
        (failure,) = [line for line in log if line["message"] == "request failed"]
        assert failure["spanId"] == receiver.one("GET /v1/{campaignId}/codes/count").span_id.hex()


def test_spans_of_the_drivers(mongo_uri: str, database_name: str) -> None:
    with receiving() as receiver:
        endpoint = f"http://127.0.0.1:{receiver.port}"
        traceparent = run(CLIENTS, mongo_uri, database_name, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    refused = receiver.one(f"{database_name}.findAndModify")
    assert (refused.status.code, refused.status.message) == (Status.STATUS_CODE_ERROR, "DuplicateKey")
    assert attributes(refused)["db.response.status_code"] == "11000"
    assert refused.parent_span_id == receiver.one("datastore.break").span_id
    assert receiver.one(f"{database_name}.insert").parent_span_id == receiver.one("datastore.seed").span_id
    request = receiver.one("GET")
    assert request.parent_span_id == receiver.one("storage.get").span_id
    assert traceparent.startswith(f"00-{request.trace_id.hex()}-{request.span_id.hex()}-")
    assert {attributes(span)["codesvc.correlation_id"] for span in receiver.spans} == {"c-2"}
    assert "SECRET" not in "".join(str(span) for span in receiver.spans)


def test_without_an_exporter_the_callers_trace_is_still_on_the_lines() -> None:
    lines = [orjson.loads(line) for line in run().splitlines()]
    (line,) = [line for line in lines if line.get("route") == "/v1/{campaignId}/codes"]
    assert (line["traceId"], line["spanId"]) == (TRACE_ID, "b7ad6b7169203331")


def test_disabled_means_disabled(receiver: Receiver) -> None:
    before = len(receiver.requests)
    run(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{receiver.port}", OTEL_SDK_DISABLED="true")
    assert len(receiver.requests) == before


def test_a_collector_that_is_not_there_fails_nothing() -> None:
    assert run(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_EXPORTER_OTLP_TIMEOUT="1")


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, False),
        ({"OTEL_SDK_DISABLED": "TRUE", "OTEL_TRACES_EXPORTER": "otlp"}, False),
        ({"OTEL_SDK_DISABLED": "false", "OTEL_TRACES_EXPORTER": "otlp"}, True),
    ],
)
def test_who_wants_traces(environment: dict[str, str], wanted: bool) -> None:
    assert tracing_wanted(environment) is wanted


def test_nobody_wants_them() -> None:
    configure_tracing()()
    assert active_tracer() is None
