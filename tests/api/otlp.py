"""Receivers of OTLP, over HTTP and over gRPC, that decode and keep what they are sent."""

import gzip
import http.server
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc  # type: ignore[import-untyped]  # ships no types
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from .harness import eventually

CALLER = "00f067aa0ba902b7"
"""The id of the span from which every traced request of the suite comes."""


@dataclass
class Receiver:
    """What came, in the order in which it did."""

    port: int = 0
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    requests: list[ExportTraceServiceRequest] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        """The address for OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def spans(self) -> list[Any]:
        """Every span."""
        return [
            span
            for request in list(self.requests)
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def of(self, trace: str) -> list[Any]:
        """Return the spans of a trace that have come so far."""
        return [span for span in self.spans if span.trace_id.hex() == trace]

    def trace(self, trace: str) -> "Trace":
        """Wait for all spans of a trace: they are sent in the order in which they end, the server's own last."""

        def found() -> list[Any] | None:
            spans = self.of(trace)
            return spans if any(span.parent_span_id.hex() == CALLER for span in spans) else None

        return Trace(eventually(found, limit=10))

    def take(self, body: bytes, headers: Iterable[tuple[str, str]]) -> None:
        """Keep one export."""
        self.bodies.append(body)
        self.headers.append({name.lower(): value for name, value in headers})
        self.requests.append(ExportTraceServiceRequest.FromString(body))


class Trace:
    """The spans of one trace, to be asked for by name."""

    def __init__(self, spans: Sequence[Any]) -> None:
        self.spans = spans

    def named(self, name: str) -> list[Any]:
        """Return all of a name."""
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> Any:
        """Return the only one of a name."""
        (span,) = self.named(name)
        return span

    def below(self, parent: Any) -> list[Any]:
        """Return the children of a span."""
        return [span for span in self.spans if span.parent_span_id == parent.span_id]


def attributes(thing: Any) -> dict[str, Any]:
    """Return the attributes of a span or a resource."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in thing.attributes}


@contextmanager
def receiving_http() -> Iterator[Receiver]:
    """Receive OTLP over HTTP (binary protocol buffers to /v1/traces)."""
    receiver = Receiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            known = self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf"
            if known:
                receiver.take(body, self.headers.items())
            self.send_response(200 if known else 400)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.port = server.server_port
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def receiving_grpc() -> Iterator[Receiver]:
    """Receive OTLP over gRPC."""
    receiver = Receiver()

    class Service(TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name
            receiver.take(request.SerializeToString(), context.invocation_metadata())
            return ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(Service(), server)  # type: ignore[no-untyped-call]
    receiver.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield receiver
    finally:
        server.stop(grace=None).wait()
