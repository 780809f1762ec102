"""Log lines: one JSON object a line for machines, one short line for a person at a terminal.

codesvc/observability/lines.py makes them, codesvc/observability/output.py writes them.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Final, TextIO

import orjson
from opentelemetry import trace

from codesvc.observability.lines import console_line, json_line, timestamp
from codesvc.observability.output import Access, LineHandler
from codesvc.settings import LogFormat

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

correlation_id: ContextVar[str | None] = ContextVar("correlation_id", default=None)
"""The X-Correlation-ID of the request being served."""

remote_trace: ContextVar[tuple[str, str] | None] = ContextVar("remote_trace", default=None)
"""Trace id and parent id of the caller's traceparent, where no tracer is set up to make spans of them."""

PROBES: Final = frozenset({"/livez", "/readyz", "/heartbeat", "/metrics"})
"""Templates of the routes that a cluster asks by itself, again and again."""

_logger = logging.getLogger(__name__)


def configure_logging(
    level: str = "INFO",
    stream: TextIO | None = None,
    *,
    form: LogFormat = LogFormat.AUTO,
    probes: int = 1,
    fields: Mapping[str, str | int] | None = None,
    lock: int | None = None,
) -> None:
    """Send every log record to ``stream`` (standard output by default), and nowhere else.

    ``fields`` are on every line. ``lock`` is the descriptor of a file that is locked while lines are written: a pipe
    mixes what several processes write into it as soon as it is more than a page (pipe(7), PIPE_BUF).

    ``level`` is the least severe level of codesvc's own loggers. The libraries' never go below INFO: at
    DEBUG, pymongo writes the commands it sends, and botocore the signatures of its requests. Of the probes that
    succeed, the access log has one in ``probes``, or none if that is 0.
    """
    target = sys.stdout if stream is None else stream
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    _State.fields = dict(fields or {})
    _State.told = "," + orjson.dumps(_State.fields).decode()[1:-1] if fields else ""
    _State.handler = _handler(target, form, lock)
    _State.probes = probes
    root.addHandler(_State.handler)
    threshold = logging.getLevelNamesMapping()[level]
    root.setLevel(max(threshold, logging.INFO))
    logging.getLogger("codesvc").setLevel(threshold)
    # The access log is written by codesvc.web: aiohttp's own would repeat it, with the query strings.
    logging.getLogger("aiohttp.access").setLevel(logging.CRITICAL)
    logging.logThreads = False
    logging.logProcesses = False
    logging.logMultiprocessing = False


def log_the_rest() -> None:
    """Make log lines of what Python would write to standard error by itself: warnings, and errors nobody caught.

    For a process that does nothing but serve. Those lines would be no JSON, and tell an error's message.
    """
    logging.captureWarnings(True)

    def uncaught(kind: type[BaseException], error: BaseException | None, stack: TracebackType | None) -> None:
        if error is not None and not issubclass(kind, KeyboardInterrupt | SystemExit):
            _logger.critical("uncaught error", exc_info=(kind, error, stack))

    def of_thread(told: threading.ExceptHookArgs) -> None:
        uncaught(told.exc_type, told.exc_value, told.exc_traceback)

    def unraisable(told: "UnraisableHookArgs") -> None:
        uncaught(told.exc_type, told.exc_value, told.exc_traceback)

    sys.excepthook = uncaught
    threading.excepthook = of_thread
    sys.unraisablehook = unraisable


def show_spans() -> None:
    """Put the ids of the current span on every line from now on: tracing is set up."""
    _State.spans = True


def current_trace() -> tuple[str, str] | None:
    """Trace id and span id, in hexadecimal, of the span being recorded, or of the caller's where none is."""
    if _State.spans:
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            return f"{context.trace_id:032x}", f"{context.span_id:016x}"
    return remote_trace.get()


class AccessLog:
    """Writes a line for each request, at level INFO.

    Where lines are JSON, it goes past ``logging``: a record that nobody but our own handler sees costs
    more than the line that is made of it. Those of a few milliseconds are made together, when they are written: one
    after the other, they take a third of the time that they would take in the middle of each request.
    """

    def __init__(self) -> None:
        self._logger = logging.getLogger("codesvc.access")
        self._failing: set[str] = set()
        self._probes: dict[str, int] = {}

    def __call__(
        self, *, method: str, route: str, status: int, seconds: float, size: int, campaign_id: str | None
    ) -> None:
        """Write one line; ``route`` is the template, ``size`` the body's in bytes."""
        logger = self._logger
        if not logger.isEnabledFor(logging.INFO) or (route in PROBES and self._routine(route, status)):
            return
        handler = _State.handler
        if handler is not None and handler.json and handler in logger.root.handlers:
            told = (time.time(), correlation_id.get(), current_trace(), method, route, status, seconds, size)
            handler.write_soon((*told, campaign_id))
            return
        fields = {"method": method, "route": route, "status": status, "durationMs": round(seconds * 1000, 3)}
        extra = {**fields, "bytes": size} | ({} if campaign_id is None else {"campaignId": campaign_id})
        logger.info("request", extra=extra)

    def _routine(self, route: str, status: int) -> bool:
        """Whether nobody needs to know of a probe: all is well, as it was before, and its turn has not come."""
        if status >= 400:
            self._failing.add(route)
            return False
        if route in self._failing:
            self._failing.discard(route)
            return False
        if not _State.probes:
            return True
        count = self._probes.get(route, 0)
        self._probes[route] = count + 1
        return count % _State.probes != 0


class _State:
    handler: LineHandler | None = None
    fields: Mapping[str, str | int] = {}
    told = ""
    """The same as a part of a JSON object, or nothing."""
    spans = False
    probes = 1
    requests: ClassVar[dict[tuple[str, str, int], str]] = {}
    """What a line says of a request, by method, route and status: few, and encoded once."""


def _access_line(access: Access) -> bytes:
    # Nothing here needs escaping but what is known beforehand, so the line need not go through an encoder: correlation
    # and campaign ids hold letters, digits and harmless signs only, or are not taken.
    created, correlation, spans, method, route, status, seconds, size, campaign_id = access
    request = _State.requests.get((method, route, status))
    if request is None:
        told = orjson.dumps({"method": method, "route": route, "status": status}).decode()
        request = _State.requests[method, route, status] = told[1:-1]
    campaign = "" if campaign_id is None else f',"campaignId":"{campaign_id}"'
    traced = "" if spans is None else f',"traceId":"{spans[0]}","spanId":"{spans[1]}"'
    return (
        f'{{"timestamp":"{timestamp(created)}","level":"INFO","logger":"codesvc.access","message":"request",'
        f'"correlationId":"{correlation}",{request},"durationMs":{seconds * 1000:.3f},"bytes":{size}'
        f"{campaign}{traced}{_State.told}}}\n"
    ).encode()


def _handler(stream: TextIO, form: LogFormat, lock: int | None) -> LineHandler:
    terminal = stream.isatty()
    if form is LogFormat.JSON or (form is LogFormat.AUTO and not terminal):
        return LineHandler(
            stream, lambda record: json_line(record, _ids()), access_form=_access_line, lock=lock
        )
    # NO_COLOR: no-color.org, where any value but an empty one counts.
    colour = (
        terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") not in {"", "dumb"}
    )
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return LineHandler(
        stream,
        lambda record: console_line(record, _ids(), colour=colour, encoding=encoding),
        lock=lock,
    )


def _ids() -> dict[str, str | int]:
    """Tell of which process and which request this is, as far as that is known."""
    ids: dict[str, str | int] = {**_State.fields}
    correlation = correlation_id.get()
    if correlation is not None:
        ids["correlationId"] = correlation
    spans = current_trace()
    if spans is not None:
        ids["traceId"], ids["spanId"] = spans
    return ids
