"""Tracing: OpenTelemetry's SDK, set up only where the environment names somewhere to send spans.

Server spans are made by codesvc.web itself, not by opentelemetry-instrumentation-aiohttp-server: that one
writes every request's address with its query string into the span, replaces ``aiohttp.web.Application``
for the whole process, and keeps metrics of its own for each request even where nobody reads them.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from importlib.metadata import entry_points
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as context_api
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from codesvc.observability.logs import correlation_id, show_spans

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

CORRELATION_ATTRIBUTE: Final = "codesvc.correlation_id"

Attributes = Mapping[str, str | int]


class _State:
    tracer: Tracer | None = None


def tracing_wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment names an exporter of traces, by OpenTelemetry's standard variables."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = environment.get("OTEL_TRACES_EXPORTER", "").strip()
    if exporters:
        return exporters.lower() != "none"
    return bool(
        environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip()
        or environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
    )


def configure_tracing(*, service_name: str = "codesvc", service_version: str = "") -> Callable[[], None]:
    """Set up the tracer provider and instrument the clients; do nothing unless the environment wants traces.

    Call it once, before any client of MongoDB or S3 is made and before Telemetry is. Returns what flushes
    the spans and ends the exporter: it may block for the exporter's time limit, so run it off the loop.

    Raises:
        ValueError: OTEL_TRACES_EXPORTER names an exporter that is not installed, or its settings are
            malformed; the message is one line that names the variable.

    """
    if not tracing_wanted():
        return _nothing

    from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor  # noqa: PLC0415
    from opentelemetry.instrumentation.pymongo import PymongoInstrumentor  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    class CorrelationProcessor(SpanProcessor):
        """Puts the correlation ID on every span, those of the libraries included."""

        def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002
            correlation = correlation_id.get()
            if correlation is not None:
                span.set_attribute(CORRELATION_ATTRIBUTE, correlation)

    attributes: dict[str, str] = {"service.version": service_version} if service_version else {}
    if not os.environ.get("OTEL_SERVICE_NAME") and "service.name=" not in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    ):
        attributes["service.name"] = service_name
    provider = TracerProvider(resource=Resource.create(attributes))
    provider.add_span_processor(CorrelationProcessor())
    for exporter in _exporters():
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    AioHttpClientInstrumentor().instrument(
        tracer_provider=provider, url_filter=lambda url: str(url.with_query(None))
    )
    PymongoInstrumentor().instrument(
        tracer_provider=provider, capture_statement=False, failed_hook=_without_message
    )
    _State.tracer = provider.get_tracer("codesvc", service_version or None)
    show_spans()

    def shutdown() -> None:
        _State.tracer = None
        provider.shutdown()

    return shutdown


def active_tracer() -> Tracer | None:
    """Return the tracer that configure_tracing set up, or None while tracing is off."""
    return _State.tracer


def remote_context(headers: Mapping[str, str]) -> Context:
    """Read the caller's trace context (W3C traceparent, or what OTEL_PROPAGATORS names) from HTTP headers."""
    return propagate.extract(headers)


class SpanScope(AbstractContextManager[Span]):
    """A span that is current within the block, and ends with it.

    An exception leaves its type on the span, never its message: a driver's may hold codes.
    """

    __slots__ = ("_attributes", "_kind", "_name", "_parent", "_span", "_token", "_tracer")

    def __init__(
        self,
        tracer: Tracer,
        name: str,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes | None = None,
        parent: Context | None = None,
    ) -> None:
        self._tracer = tracer
        self._name = name
        self._kind = kind
        self._attributes = attributes
        self._parent = parent

    def __enter__(self) -> Span:
        self._span = self._tracer.start_span(
            self._name, context=self._parent, kind=self._kind, attributes=self._attributes
        )
        self._token = context_api.attach(trace.set_span_in_context(self._span, self._parent))
        return self._span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        if kind is not None:
            self._span.set_attribute("error.type", kind.__qualname__)
            self._span.set_status(Status(StatusCode.ERROR, kind.__qualname__))
        context_api.detach(self._token)
        self._span.end()


class NoScope(AbstractContextManager[None]):
    """Stands in for SpanScope while tracing is off."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


NO_SCOPE: Final = NoScope()


def _exporters() -> "list[SpanExporter]":
    names = os.environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    return [_exporter(name) for name in dict.fromkeys(each.strip() for each in names.split(",")) if name]


def _exporter(name: str) -> "SpanExporter":
    if name == "otlp":
        # The one protocol that codesvc carries; a collector listens for it on port 4318.
        name = "otlp_proto_http"
    for entry_point in entry_points(group="opentelemetry_traces_exporter", name=name):
        try:
            exporter: SpanExporter = entry_point.load()()
        except Exception as error:  # noqa: BLE001 - whatever an exporter makes of its settings
            raise ValueError(
                f"OTEL_EXPORTER_*: the exporter cannot be made ({type(error).__name__})"
            ) from None
        return exporter
    raise ValueError(f"OTEL_TRACES_EXPORTER: no exporter named {name!r} is installed")


def _without_message(span: Span, event: Any) -> None:
    """Replace the server's words, which may quote a key, by the name of its error."""
    failure = event.failure
    span.set_status(Status(StatusCode.ERROR, str(failure.get("codeName", "")) or "command failed"))
    if isinstance(failure.get("code"), int):
        span.set_attribute("db.response.status_code", str(failure["code"]))


def _nothing() -> None:
    return None
