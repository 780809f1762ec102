"""Log lines: one JSON object a line for machines, one short line for a person at a terminal.

A code is a bearer secret, and the text of a driver's exception may hold one (MongoDB's E11000 quotes
the key), so no line ever carries an exception's message: its type, its number and the frames of its
stack say where to look.
"""

import asyncio
import fcntl
import logging
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from types import TracebackType
from typing import Any, ClassVar, Final, TextIO

import orjson
from opentelemetry import trace

correlation_id: ContextVar[str | None] = ContextVar("correlation_id", default=None)
"""The X-Correlation-ID of the request being served."""

remote_trace: ContextVar[tuple[str, str] | None] = ContextVar("remote_trace", default=None)
"""Trace id and parent id of the caller's traceparent, where no tracer is set up to make spans of them."""

_JSON_OPTIONS: Final = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
_GATHER_SECONDS: Final = 0.005
_MAX_FRAMES: Final = 40
_MAX_CHAIN: Final = 5
_STANDARD_ATTRIBUTES: Final = frozenset(
    {*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName", "exc_text"}
)


def configure_logging(
    level: str = "INFO",
    stream: TextIO | None = None,
    *,
    fields: Mapping[str, str | int] | None = None,
    lock: int | None = None,
) -> None:
    """Send every log record to ``stream`` (standard output by default), and nowhere else.

    ``fields`` are on every line. ``lock`` is the descriptor of a file that is locked while lines are written: a pipe
    mixes what several processes write into it as soon as it is more than a page (pipe(7), PIPE_BUF).

    ``level`` is the least severe level of codesvc's own loggers. The libraries' never go below INFO: at
    DEBUG, pymongo writes the commands it sends, and botocore the signatures of its requests.
    """
    target = sys.stdout if stream is None else stream
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    _State.handler = _LineHandler(target, lock)
    _State.fields = dict(fields or {})
    _State.told = "," + orjson.dumps(_State.fields).decode()[1:-1] if fields else ""
    root.addHandler(_State.handler)
    threshold = logging.getLevelNamesMapping()[level]
    root.setLevel(max(threshold, logging.INFO))
    logging.getLogger("codesvc").setLevel(threshold)
    # The access log is written by codesvc.web: aiohttp's own would repeat it, with the query strings.
    logging.getLogger("aiohttp.access").setLevel(logging.CRITICAL)
    logging.logThreads = False
    logging.logProcesses = False
    logging.logMultiprocessing = False


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


def error_fields(error: BaseException) -> dict[str, Any]:
    """Tell an exception without its message: type, number, frames, and the same of what caused it."""
    fields = _one_error(error)
    causes: list[dict[str, Any]] = []
    while len(causes) < _MAX_CHAIN:
        following = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if following is None:
            break
        causes.append(_one_error(following))
        error = following
    if causes:
        fields["causes"] = causes
    return fields


class AccessLog:
    """Writes a line for each request, at level INFO.

    Where lines are JSON, it goes past ``logging``: a record that nobody but our own handler sees costs
    more than the line that is made of it. Those of a few milliseconds are made together, when they are written: one
    after the other, they take a third of the time that they would take in the middle of each request.
    """

    def __init__(self) -> None:
        self._logger = logging.getLogger("codesvc.access")

    def __call__(
        self, *, method: str, route: str, status: int, seconds: float, size: int, campaign_id: str | None
    ) -> None:
        """Write one line; ``route`` is the template, ``size`` the body's in bytes."""
        logger = self._logger
        if not logger.isEnabledFor(logging.INFO):
            return
        handler = _State.handler
        if handler is not None and handler.json and handler in logger.root.handlers:
            told = (time.time(), correlation_id.get(), current_trace(), method, route, status, seconds, size)
            handler.write_soon((*told, campaign_id))
            return
        fields = {"method": method, "route": route, "status": status, "durationMs": round(seconds * 1000, 3)}
        extra = {**fields, "bytes": size} | ({} if campaign_id is None else {"campaignId": campaign_id})
        logger.info("request", extra=extra)


_Access = tuple[float, str | None, tuple[str, str] | None, str, str, int, float, int, str | None]
"""When (seconds since the epoch), correlation id, trace and span, method, route, status, seconds, bytes, campaign."""


class _LineHandler(logging.Handler):
    def __init__(self, stream: TextIO, lock: int | None = None) -> None:
        super().__init__()
        self._lock_file = lock
        self.json = not stream.isatty()
        self._stream = stream
        self._binary = getattr(stream, "buffer", None) if self.json else None
        self._waiting: deque[bytes | _Access] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.write(_json_line(record) if self.json else _human_line(record))
        except Exception:  # noqa: BLE001 - logging must never break what it tells of
            self.handleError(record)

    def write(self, line: bytes) -> None:
        """Write a line, after those that wait."""
        if self._binary is None:
            self._stream.write(line.decode("utf-8", "backslashreplace"))
            self._stream.flush()
        else:
            self._waiting.append(line)
            self.flush()

    def write_soon(self, access: _Access) -> None:
        """Write a request's line together with what else is written within a few milliseconds: one call for all."""
        if self._binary is None:
            self.write(_access_line(access))
            return
        self._waiting.append(access)
        if self._loop is not None and self._loop.is_running():
            return
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            self.flush()
        else:
            self._loop.call_later(_GATHER_SECONDS, self.flush)

    def flush(self) -> None:
        """Write the lines that wait. ``logging`` calls it, too, as the process ends."""
        self._loop = None
        if self._binary is None or self._binary.closed:
            return
        lines = []
        # NOTE: popped one by one, so that two threads never write the same line, nor lose one.
        with suppress(IndexError):
            while True:
                line = self._waiting.popleft()
                lines.append(line if isinstance(line, bytes) else _access_line(line))
        # Who reads the log may be gone, or the disk full: requests are served all the same.
        with suppress(OSError), _locked(self._lock_file):
            self._binary.write(b"".join(lines))
            self._binary.flush()


@contextmanager
def _locked(file: int | None) -> Iterator[None]:
    if file is None:
        yield
        return
    fcntl.lockf(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN)


class _State:
    handler: _LineHandler | None = None
    fields: Mapping[str, str | int] = {}
    told = ""
    """The same as a part of a JSON object, or nothing."""
    spans = False
    requests: ClassVar[dict[tuple[str, str, int], str]] = {}
    """What a line says of a request, by method, route and status: few, and encoded once."""


def _access_line(access: _Access) -> bytes:
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
        f'{{"timestamp":"{_timestamp(created)}","level":"INFO","logger":"codesvc.access","message":"request",'
        f'"correlationId":"{correlation}",{request},"durationMs":{seconds * 1000:.3f},"bytes":{size}'
        f"{campaign}{traced}{_State.told}}}\n"
    ).encode()


def _json_line(record: logging.LogRecord) -> bytes:
    fields: dict[str, Any] = {
        "timestamp": _timestamp(record.created),
        "level": record.levelname,
        "logger": record.name,
        "message": _message(record),
        **_State.fields,
    }
    correlation = correlation_id.get()
    if correlation is not None:
        fields["correlationId"] = correlation
    spans = current_trace()
    if spans is not None:
        fields["traceId"], fields["spanId"] = spans
    attributes = record.__dict__
    for name in attributes.keys() - _STANDARD_ATTRIBUTES:
        fields[name] = attributes[name]
    error = _error_of(record)
    if error is not None:
        fields["error"] = error_fields(error)
    return orjson.dumps(fields, default=_encodable, option=_JSON_OPTIONS)


def _human_line(record: logging.LogRecord) -> bytes:
    attributes = record.__dict__
    more = {
        **_State.fields,
        **{name: attributes[name] for name in attributes if name not in _STANDARD_ATTRIBUTES},
    }
    extra = "".join(f" {name}={value}" for name, value in more.items())
    correlation = correlation_id.get()
    if correlation is not None and "correlationId" not in attributes:
        extra += f" correlationId={correlation}"
    clock = time.strftime("%H:%M:%S", time.localtime(record.created))
    line = f"{clock} {record.levelname:<7} {record.name}: {_message(record)}{extra}\n"
    error = _error_of(record)
    if error is not None:
        for each in (told := error_fields(error), *told.get("causes", ())):
            line += f"    {each['type']}\n" + "".join(f"      {frame}\n" for frame in each["stack"])
    return line.encode("utf-8", "backslashreplace")


def _message(record: logging.LogRecord) -> str:
    message = record.getMessage()
    if record.name == "asyncio":
        # The loop's default handler adds the repr of the failed task, its exception's text included.
        return message.partition("\n")[0]
    return message


def _error_of(record: logging.LogRecord) -> BaseException | None:
    return record.exc_info[1] if record.exc_info else None


def _one_error(error: BaseException) -> dict[str, Any]:
    kind = type(error)
    fields: dict[str, Any] = {
        "type": kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}",
        "stack": _frames(error.__traceback__),
    }
    for name in ("code", "errno"):
        number = getattr(error, name, None)
        if isinstance(number, int):
            fields[name] = int(number)
    if isinstance(error, BaseExceptionGroup):
        fields["exceptions"] = [_one_error(each) for each in error.exceptions[:_MAX_CHAIN]]
    return fields


def _frames(stack: TracebackType | None) -> list[str]:
    frames = [
        f"{frame.f_code.co_filename}:{line} {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(stack)
    ]
    return frames[-_MAX_FRAMES:]


def _encodable(value: object) -> str:
    return type(value).__name__ if isinstance(value, BaseException) else str(value)


class _Clock:
    second = -1
    text = ""
    millisecond = -1
    stamp = ""


def _timestamp(created: float) -> str:
    millisecond = int(created * 1000)
    if millisecond != _Clock.millisecond:
        second, rest = divmod(millisecond, 1000)
        if second != _Clock.second:
            _Clock.second, _Clock.text = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _Clock.millisecond, _Clock.stamp = millisecond, f"{_Clock.text}.{rest:03d}Z"
    return _Clock.stamp
