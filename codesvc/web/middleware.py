"""The one layer around every handler: who calls, which request it is, what became of it.

One layer rather than five: each would cost a coroutine and a look at the same headers. It is put around
the handlers as they are registered, not handed to aiohttp as a middleware, which would add a layer of its
own and look up for every request what is known here once.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from logging import getLogger
from os import urandom
from time import monotonic, perf_counter
from typing import Any, Final, Protocol, cast

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from multidict import istr
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from codesvc.errors import CodesvcError, DrainingError, OverloadedError
from codesvc.observability.logs import AccessLog, correlation_id, remote_trace
from codesvc.observability.telemetry import Telemetry
from codesvc.observability.tracing import SpanScope, remote_context
from codesvc.web.admission import Lane
from codesvc.web.handlers import ClientGoneError
from codesvc.web.idempotent import IDEMPOTENCY_KEY, echoed_key
from codesvc.web.problems import problem_code, problem_response
from codesvc.web.schemas import Limits, is_campaign_id
from codesvc.web.streaming import Stream

CORRELATION_HEADER: Final = istr("X-Correlation-ID")
TRACEPARENT: Final = istr("traceparent")
SERVER_NAME: Final = "codesvc"
_NO_SNIFFING: Final = istr("X-Content-Type-Options")
UNMATCHED: Final = "unmatched"
CLIENT_CLOSED_REQUEST: Final = 499
"""What nginx logs for a client that did not wait; it reaches nobody."""

_VARIANT: Final = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}
_IDS: Final = 256
_OVERLOAD_SECONDS: Final = 10.0
_ids: list[str] = []
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_correlation = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,128}").fullmatch
# W3C Trace Context, section 3.2: version, trace id, parent id, flags; all zeros is no id.
_traceparent = re.compile(
    r"(?!ff)[0-9a-f]{2}-((?!0{32})[0-9a-f]{32})-((?!0{16})[0-9a-f]{16})-[0-9a-f]{2}(-.*)?"
).fullmatch
_logger = getLogger(__name__)


class Authenticator(Protocol):
    """What judges the Authorization header: see codesvc.web.auth."""

    async def authenticate(self, header: str | None) -> Mapping[str, Any]:
        """Return the token's claims, or raise the RequestError that refuses it."""
        ...


@dataclass(frozen=True, slots=True)
class RouteInfo:
    """What the edge knows of a route."""

    template: str
    protected: bool
    """Needs a token, is refused while draining, and is stored by no cache."""
    traced: bool = True
    campaign: bool = False
    """Has a campaign in its path."""
    keyed: bool = False
    """Honours Idempotency-Key."""
    lengthy: bool = False
    """May take for as long as a file of any size does."""


class Edge:
    """What every response gets on its way out, whoever made it.

    Attributes:
        requests, streams, lengthy: places for what is under way: see Limits.

    """

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        telemetry: Telemetry,
        draining: Callable[[], bool],
        limits: Limits,
    ) -> None:
        self._authenticator = authenticator
        self._telemetry = telemetry
        self._draining = draining
        self._access_log = AccessLog()
        self.requests = Lane(limits.max_requests)
        self.streams = Lane(limits.max_streams)
        self.lengthy = Lane(limits.max_lengthy)
        self._endless = 0
        self._overload_told = -_OVERLOAD_SECONDS

    @property
    def active(self) -> int:
        """Requests to protected routes under way: what a process that is to end waits for."""
        return self.requests.busy + self.lengthy.busy + self.streams.busy - self._endless

    def guard(self, route: RouteInfo, handler: Handler) -> Handler:
        """Return ``handler`` with the edge around it."""
        tracer = self._telemetry.tracer if route.traced else None
        lane = (self.lengthy if route.lengthy else self.requests) if route.protected else None

        async def guarded(request: web.Request) -> web.StreamResponse:
            started = perf_counter()
            correlation = request.headers.get(CORRELATION_HEADER)
            if correlation is None or _correlation(correlation) is None:
                correlation = new_correlation_id()
            # NOTE: never reset. aiohttp gives every request a task, and with it a context, of its own.
            correlation_id.set(correlation)
            if tracer is not None:
                with _server_span(tracer, request, route) as span:
                    response = await self._respond(request, handler, lane, correlation)
                    if type(response) is Stream:
                        response = await self._send(request, response, route, correlation)
                    _describe(span, request, route, response.status)
                    self.finish(request, response, route, correlation, perf_counter() - started)
                    return response
            traceparent = request.headers.get(TRACEPARENT)
            if traceparent is not None:
                _note_caller(traceparent)
            response = await self._respond(request, handler, lane, correlation)
            if type(response) is Stream:
                response = await self._send(request, response, route, correlation)
            self.finish(request, response, route, correlation, perf_counter() - started)
            return response

        return guarded

    def finish(
        self,
        request: web.BaseRequest,
        response: web.Response | Stream,
        route: RouteInfo,
        correlation: str,
        seconds: float,
    ) -> None:
        """Put the last headers on a response, unless they are sent already; count it and log it."""
        _dress(response, route, correlation)
        if route.keyed and (key := echoed_key(request)) is not None:
            response.headers[IDEMPOTENCY_KEY] = key
        method = _method(request)
        status = response.status
        self._telemetry.http_request((method, route.template, status), seconds)
        if type(response) is Stream:
            size = response.sent
        else:
            body = response.body
            size = len(body) if isinstance(body, bytes) and method != hdrs.METH_HEAD else 0
        self._access_log(
            method=method,
            route=route.template,
            status=status,
            seconds=seconds,
            size=size,
            campaign_id=_campaign(request) if route.campaign else None,
        )

    async def _respond(
        self, request: web.Request, handler: Handler, lane: Lane | None, correlation: str
    ) -> web.Response | Stream:
        try:
            if lane is None:
                # NOTE: every handler here makes a whole response, or a Stream that is not sent yet.
                return cast("web.Response | Stream", await handler(request))
            if lane.busy >= lane.most:
                raise lane.turn_away()  # noqa: TRY301
            lane.busy += 1
            try:
                await self._authenticator.authenticate(request.headers.get(hdrs.AUTHORIZATION))
                if self._draining():
                    raise DrainingError("This process is shutting down")
                return cast("web.Response | Stream", await handler(request))
            finally:
                lane.busy -= 1
        except ClientGoneError:
            return web.Response(status=CLIENT_CLOSED_REQUEST)
        except Exception as error:  # noqa: BLE001 - the last resort: whatever it was becomes a response
            return self.refuse(error, correlation)

    async def _send(
        self, request: web.Request, stream: Stream, route: RouteInfo, correlation: str
    ) -> web.Response | Stream:
        lane = self.streams
        if lane.busy >= lane.most:
            await stream.discard()
            return self.refuse(lane.turn_away(), correlation)
        _dress(stream, route, correlation)
        endless = stream.endless or not route.protected
        lane.busy += 1
        self._endless += endless
        try:
            await stream.send(request)
        finally:
            lane.busy -= 1
            self._endless -= endless
        return stream

    def refuse(self, error: Exception, correlation: str) -> web.Response:
        """Turn an error into a response, and log those that are ours."""
        response = problem_response(error, correlation_id=correlation)
        status = response.status
        if status == 500:
            _logger.error("request failed", exc_info=error)
        elif isinstance(error, OverloadedError):
            # Not a line for each, beside that of the access log: there is too much to do already.
            if (now := monotonic()) - self._overload_told >= _OVERLOAD_SECONDS:
                self._overload_told = now
                _logger.warning("overloaded", extra={"reason": str(error)})
        elif status == 503 and isinstance(error, CodesvcError):
            cause = error.__cause__
            _logger.warning(
                "request refused",
                extra={"code": problem_code(error), "cause": type(cause).__name__ if cause else None},
            )
        if isinstance(error, web.HTTPMethodNotAllowed):
            response.headers[hdrs.ALLOW] = ", ".join(sorted(error.allowed_methods))
        if isinstance(error, DrainingError) or status in {408, 413}:
            response.force_close()
        return response


def new_correlation_id() -> str:
    """Make a random UUID, version 4 (RFC 9562, section 5.4), without the objects of ``uuid``."""
    if not _ids:
        # Many at once, in a loop and with one call to the system: each takes a quarter of the time.
        drawn = urandom(16 * _IDS).hex()
        _ids.extend(_uuid(drawn[start : start + 32]) for start in range(0, len(drawn), 32))
    return _ids.pop()


def _uuid(bits: str) -> str:
    return f"{bits[:8]}-{bits[8:12]}-4{bits[13:16]}-{_VARIANT[bits[16]]}{bits[17:20]}-{bits[20:]}"


async def expect_nothing(request: web.Request) -> None:
    """Leave ``Expect: 100-continue`` to whoever reads the body.

    A refusal then reaches the client before it has sent 32 MiB for nothing. Any other expectation is
    passed over, as RFC 9110, section 10.1.1, allows.
    """


def _dress(response: web.StreamResponse, route: RouteInfo, correlation: str) -> None:
    """Put the headers on that every response has."""
    headers = response.headers
    headers[CORRELATION_HEADER] = correlation
    headers[hdrs.SERVER] = SERVER_NAME
    headers[_NO_SNIFFING] = "nosniff"
    if route.protected:
        headers[hdrs.CACHE_CONTROL] = "no-store"


def _method(request: web.BaseRequest) -> str:
    return request.method if request.method in _METHODS else "other"


def _campaign(request: web.BaseRequest) -> str | None:
    """Return the campaign of the request's path, if it may be one."""
    campaign_id: str = cast("web.Request", request).match_info["campaignId"]
    return campaign_id if is_campaign_id(campaign_id) else None


def _note_caller(traceparent: str) -> None:
    match = _traceparent(traceparent)
    if match is not None:
        remote_trace.set((match[1], match[2]))


def _server_span(tracer: Tracer, request: web.Request, route: RouteInfo) -> SpanScope:
    method = _method(request)
    name = method if route.template == UNMATCHED else f"{method} {route.template}"
    return SpanScope(tracer, name, kind=SpanKind.SERVER, parent=remote_context(request.headers))


def _describe(span: Span, request: web.Request, route: RouteInfo, status: int) -> None:
    """Put the attributes of OpenTelemetry's semantic conventions for HTTP servers on the span, if it is sampled."""
    if not span.is_recording():
        return
    span.set_attribute("http.request.method", _method(request))
    span.set_attribute("url.scheme", request.scheme)
    span.set_attribute("http.response.status_code", status)
    if route.template != UNMATCHED:
        span.set_attribute("http.route", route.template)
    campaign_id = _campaign(request) if route.campaign else None
    if campaign_id is not None:
        span.set_attribute("codesvc.campaign_id", campaign_id)
    if status >= 500:
        span.set_attribute("error.type", str(status))
        span.set_status(Status(StatusCode.ERROR))
