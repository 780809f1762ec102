"""Tracing: OpenTelemetry's SDK, set up only where the environment names somewhere to send spans.

Server spans are made by codesvc.web itself, not by opentelemetry-instrumentation-aiohttp-server: that one
writes every request's address with its query string into the span, replaces ``aiohttp.web.Application``
for the whole process, and keeps metrics of its own for each request even where nobody reads them.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer

from codesvc.observability.logs import correlation_id, show_spans

if TYPE_CHECKING:
    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.sdk.trace.sampling import Sampler

CORRELATION_ATTRIBUTE: Final = "codesvc.correlation_id"

Attributes = Mapping[str, str | int]

_NO_CONTEXT: Final = Context()
_logger = logging.getLogger(__name__)


class _State:
    tracer: Tracer | None = None
    propagator: "TextMapPropagator | None" = None


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

    Call it once in each process that serves (its threads do not survive a fork), before any client of MongoDB or S3 is
    made and before Telemetry is. Returns what flushes the spans and ends the exporter: it blocks for six seconds at the
    most, so run it off the loop.

    Raises:
        ValueError: a variable of OpenTelemetry names what there is not, or is malformed; the message is one
            line that names the variable.

    """
    if not tracing_wanted():
        return _nothing

    sampler = _sampler()
    propagator = _propagator()

    from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor  # noqa: PLC0415
    from opentelemetry.instrumentation.pymongo import PymongoInstrumentor  # noqa: PLC0415
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider  # noqa: PLC0415

    from codesvc.observability.exporting import export_to, protocol  # noqa: PLC0415

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
    # It would flush a second time as the interpreter ends, with no bound but its own.
    provider = TracerProvider(sampler=sampler, resource=Resource.create(attributes), shutdown_on_exit=False)
    provider.add_span_processor(CorrelationProcessor())
    flush = export_to(provider)
    trace.set_tracer_provider(provider)
    below = _Below(provider)
    AioHttpClientInstrumentor().instrument(
        tracer_provider=below, url_filter=lambda url: str(url.with_query(None))
    )
    PymongoInstrumentor().instrument(
        tracer_provider=below, capture_statement=False, failed_hook=_without_message
    )
    _State.propagator = propagator
    _State.tracer = provider.get_tracer("codesvc", service_version or None)
    show_spans()
    _logger.info("traces are on", extra={"protocol": protocol(), "sampler": sampler.get_description()})

    def shutdown() -> None:
        _State.tracer = None
        flush()

    return shutdown


def active_tracer() -> Tracer | None:
    """Return the tracer that configure_tracing set up, or None while tracing is off."""
    return _State.tracer


def remote_context(headers: Mapping[str, str]) -> Context:
    """Read the caller's trace context (W3C Trace Context, or what OTEL_PROPAGATORS names) from HTTP headers."""
    propagator = _State.propagator
    return _NO_CONTEXT if propagator is None else propagator.extract(headers, _NO_CONTEXT)


def unrecorded() -> bool:
    """Whether the current span is one that was not sampled: then nothing below it is recorded either."""
    span = trace.get_current_span()
    return not span.is_recording() and span.get_span_context().is_valid


class SpanScope(AbstractContextManager[Span]):
    """A span that is current within the block, and ends with it.

    An exception leaves its type on the span, never its message: a driver's may hold codes.
    """

    __slots__ = ("_attributes", "_kind", "_links", "_name", "_parent", "_span", "_token", "_tracer")

    def __init__(
        self,
        tracer: Tracer,
        name: str,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes | None = None,
        parent: Context | None = None,
        links: Sequence[Link] = (),
    ) -> None:
        self._tracer = tracer
        self._name = name
        self._kind = kind
        self._attributes = attributes
        self._parent = parent
        self._links = links

    def __enter__(self) -> Span:
        self._span = self._tracer.start_span(
            self._name, self._parent, self._kind, self._attributes, self._links
        )
        context = trace.set_span_in_context(self._span, self._parent)
        if not self._span.is_recording():
            # Spares the drivers' instrumentation the work for spans that nobody gets.
            context = context_api.set_value(_SUPPRESS_INSTRUMENTATION_KEY, True, context)
        self._token = context_api.attach(context)
        return self._span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        if kind is not None and self._span.is_recording():
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


def _sampler() -> "Sampler":
    """Make the sampler of OTEL_TRACES_SAMPLER; the SDK would take everything where it does not understand it."""
    from opentelemetry.sdk.trace import sampling  # noqa: PLC0415

    name = os.environ.get("OTEL_TRACES_SAMPLER", "").strip().lower() or "parentbased_always_on"
    always: dict[str, Sampler] = {
        "always_on": sampling.ALWAYS_ON,
        "always_off": sampling.ALWAYS_OFF,
        "parentbased_always_on": sampling.DEFAULT_ON,
        "parentbased_always_off": sampling.DEFAULT_OFF,
    }
    if name in always:
        return always[name]
    if name not in {"traceidratio", "parentbased_traceidratio"}:
        known = ", ".join([*always, "traceidratio", "parentbased_traceidratio"])
        raise ValueError(f"OTEL_TRACES_SAMPLER: is none of {known}")
    try:
        ratio = sampling.TraceIdRatioBased(float(os.environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or 1))
    except ValueError:
        raise ValueError("OTEL_TRACES_SAMPLER_ARG: is no number from 0 to 1") from None
    return ratio if name == "traceidratio" else sampling.ParentBased(ratio)


def _propagator() -> "TextMapPropagator":
    try:
        # Reads the variable as it is imported.
        from codesvc.observability.propagation import set_up  # noqa: PLC0415
    except Exception:  # noqa: BLE001 - a propagator of another distribution may raise anything
        raise ValueError("OTEL_PROPAGATORS: names a propagator that is not installed") from None
    return set_up()


class _Below(trace.TracerProvider):
    """Makes spans below recorded ones only.

    What the drivers do where nobody asked (probes, the upkeep of a campaign's entry, a key set renewed) would otherwise
    fill the store of traces with a trace for each command.
    """

    def __init__(self, provider: trace.TracerProvider) -> None:
        self._provider = provider

    def get_tracer(self, *arguments: Any, **options: Any) -> Tracer:
        return _BelowTracer(self._provider.get_tracer(*arguments, **options))


class _BelowTracer(Tracer):
    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def start_span(self, name: str, context: Context | None = None, *arguments: Any, **options: Any) -> Span:
        if not trace.get_current_span(context).is_recording():
            return trace.INVALID_SPAN
        return self._tracer.start_span(name, context, *arguments, **options)

    def start_as_current_span(self, *arguments: Any, **options: Any) -> Any:
        return self._tracer.start_as_current_span(*arguments, **options)


def _without_message(span: Span, event: Any) -> None:
    """Replace the server's words, which may quote a key, by the name of its error."""
    failure = event.failure
    span.set_status(Status(StatusCode.ERROR, str(failure.get("codeName", "")) or "command failed"))
    if isinstance(failure.get("code"), int):
        span.set_attribute("db.response.status_code", str(failure["code"]))


def _nothing() -> None:
    return None
