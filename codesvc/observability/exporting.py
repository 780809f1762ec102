"""Where spans go: OTLP over HTTP or gRPC, as OpenTelemetry's variables say, and what the log tells when they are lost.

Spans wait in a bounded queue (OTEL_BSP_MAX_QUEUE_SIZE) and are sent by a thread of their own. A collector that is away
costs spans, never requests: what does not fit is dropped. The log says so when it begins, then once a minute, and when
it is over; OpenTelemetry's own lines, one for each try and each dropped span, are not written.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from enum import Enum
from importlib.metadata import entry_points
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

_PROTOCOLS: Final = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_REPEAT_SECONDS: Final = 60.0
# Longer than any collector that answers takes, and within what Kubernetes grants a pod beyond its drain.
_FLUSH_SECONDS: Final = 5.0
_LAST_SECONDS: Final = 0.5
# NOTE: where the SDK logs its tries and its drops; tests/api/test_traces.py holds it to that.
_EXPORTER_LOGGER: Final = "opentelemetry.exporter"
_QUEUE_LOGGER: Final = "opentelemetry.sdk._shared_internal"

_logger = logging.getLogger(__name__)


def protocol() -> str:
    """Name the protocol of OTLP: http/protobuf, unless a variable says grpc.

    Raises:
        ValueError: it is another; one line that names the variable.

    """
    for variable in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        told = os.environ.get(variable, "").strip().lower()
        if told:
            if told not in _PROTOCOLS:
                raise ValueError(f"{variable}: is neither http/protobuf nor grpc")
            return told
    return "http/protobuf"


def export_to(provider: TracerProvider) -> Callable[[], None]:
    """Let ``provider`` send its spans where the environment says.

    Return what sends those that wait and ends the threads, within six seconds; spans that the collector has not
    taken by then are lost.

    Raises:
        ValueError: OTEL_TRACES_EXPORTER names an exporter that is not installed, or its settings are malformed; one
            line that names the variable.

    """
    names = os.environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    exporters = []
    for name in dict.fromkeys(each.strip() for each in names.split(",")):
        exporter = _Reporting(_exporter(name))
        exporters.append(exporter)
        try:
            provider.add_span_processor(BatchSpanProcessor(exporter))
        except ValueError:
            raise ValueError(
                "OTEL_BSP_MAX_QUEUE_SIZE, OTEL_BSP_MAX_EXPORT_BATCH_SIZE, OTEL_BSP_SCHEDULE_DELAY: "
                "must be above 0, and a batch no larger than the queue"
            ) from None
    _quieten()

    def shutdown() -> None:
        ending = threading.Thread(target=provider.shutdown, name="flush-traces", daemon=True)
        ending.start()
        ending.join(_FLUSH_SECONDS)
        if ending.is_alive():
            for exporter in exporters:
                exporter.shutdown()
            ending.join(_LAST_SECONDS)
        for exporter in exporters:
            exporter.say_the_last()

    return shutdown


def _exporter(name: str) -> SpanExporter:
    # gRPC takes 30 MB and threads of its own, so nothing of it is imported unless it is asked for.
    installed = _PROTOCOLS[protocol()] if name == "otlp" else name
    for entry_point in entry_points(group="opentelemetry_traces_exporter", name=installed):
        try:
            exporter: SpanExporter = entry_point.load()()
        except Exception as error:  # noqa: BLE001 - whatever an exporter makes of its settings
            raise ValueError(
                f"OTEL_EXPORTER_*: the exporter cannot be made ({type(error).__name__})"
            ) from None
        return exporter
    raise ValueError(f"OTEL_TRACES_EXPORTER: no exporter named {name!r} is installed")


class _Reporting(SpanExporter):
    """Hands spans on, and tells in the log how many were lost and for which kind of reason."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._lost = 0
        self._untold = 0
        self._told = float("-inf")
        self._reason: str | None = None
        self._ended = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans; called by the processor's thread."""
        _Reasons.last = None
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 - an exporter must not end the thread that calls it
            _Reasons.last = type(error).__name__
            result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            if self._lost:
                _logger.info("spans are sent again", extra={"spansLost": self._lost})
                self._lost = self._untold = 0
                self._told = float("-inf")
            return result
        self._reason = _Reasons.last or self._reason
        self._lost += len(spans)
        self._untold += len(spans)
        if time.monotonic() - self._told >= _REPEAT_SECONDS:
            self._tell()
        return result

    def say_the_last(self) -> None:
        """Tell of what was lost since that was told last."""
        if self._untold:
            self._tell()

    def shutdown(self) -> None:
        """End the exporter, and the tries that are under way."""
        if not self._ended:
            self._ended = True
            self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what the exporter itself keeps back."""
        return self._exporter.force_flush(timeout_millis)

    def _tell(self) -> None:
        self._told = time.monotonic()
        self._untold = 0
        _logger.warning("spans could not be sent", extra={"reason": self._reason, "spansLost": self._lost})


class _Reasons(logging.Handler):
    """Keeps of an exporter's lines why it failed: a status, or an error's kind. Its words may quote a header."""

    last: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        arguments = record.args if isinstance(record.args, tuple) else ()
        for one in arguments:
            reason = one.name if isinstance(one, Enum) else str(one) if type(one) is int else None
            if isinstance(one, BaseException):
                reason = type(one).__name__
            if reason is not None:
                _Reasons.last = reason
                return


class _Drops(logging.Handler):
    """Tells that the queue is full, once a minute, and spares requests the rest of the SDK's lines about it."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__()
        self._source = logger

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno > logging.WARNING:
            _logger.error("spans could not be sent", exc_info=record.exc_info)
            return
        _logger.warning("spans are dropped: they end faster than they are sent")
        # A line that is not written costs next to nothing; one that a filter holds back was made all the same.
        self._source.setLevel(logging.ERROR)
        timer = threading.Timer(_REPEAT_SECONDS, self._source.setLevel, (logging.NOTSET,))
        timer.daemon = True
        timer.start()


def _quieten() -> None:
    for name, handler in (
        (_EXPORTER_LOGGER, _Reasons()),
        (_QUEUE_LOGGER, _Drops(logging.getLogger(_QUEUE_LOGGER))),
    ):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
