"""How the application is served: aiohttp's runner, with the responses that it makes itself brought into line.

aiohttp answers some requests before an application sees them (what is not HTTP, a header too long), or after
it has failed, with text of its own and a log line that quotes the request, tokens included.

NOTE: leans on how aiohttp's Server makes its RequestHandler; tests/unit/web/test_server.py holds it to that.
"""

import asyncio
from collections.abc import Coroutine
from logging import getLogger
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from codesvc.observability.load import LoadFigures
from codesvc.observability.logs import correlation_id
from codesvc.web.admission import BODIES
from codesvc.web.connections import KEEP_ALIVE_SECONDS, Connections, Patience, Watched
from codesvc.web.middleware import UNMATCHED, Edge, RouteInfo, new_correlation_id
from codesvc.web.problems import RequestError
from codesvc.web.routes import EDGE, TELEMETRY

_OUTSIDE: Final = RouteInfo(UNMATCHED, protected=False)
_POLL_SECONDS: Final = 0.01
_logger = getLogger(__name__)


class WebRunner(web.AppRunner):
    """An AppRunner whose every response, whoever makes it, has passed the edge.

    It writes no access log itself, and leaves bodies as they come: see codesvc/web/bodies.py.
    """

    def __init__(self, app: web.Application, *, patience: Patience | None = None, **kwargs: Any) -> None:
        usual = {"access_log": None, "auto_decompress": False, "keepalive_timeout": KEEP_ALIVE_SECONDS}
        super().__init__(app, **usual | kwargs)
        self._watch = Connections(patience or Patience())

    async def cease(self, seconds: float) -> None:
        """Accept no more; wait until those who have connected just now have sent a request, for so long at most.

        Who has no reply on a new connection cannot know that the process was about to end.
        """
        for site in list(self.sites):
            await site.stop()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        # What was accepted in this turn of the loop is a connection in the next.
        await asyncio.sleep(_POLL_SECONDS)
        while self._watch.newcomers and loop.time() < deadline:  # noqa: ASYNC110 - requests are not to pay for an event
            await asyncio.sleep(_POLL_SECONDS)

    async def _make_server(self) -> web.Server:
        server = _Server(await super()._make_server(), self.app[EDGE], self._watch)
        self._watch.start(server)
        self.app[TELEMETRY].watch_load(self)
        return server

    async def _cleanup_server(self) -> None:
        self._watch.stop()
        await super()._cleanup_server()

    def figures(self) -> LoadFigures:
        """Tell how much is under way, and what was turned away."""
        edge, bodies, ended = self.app[EDGE], self.app[BODIES], self._watch.ended
        lanes = {"request": edge.requests, "upload": edge.lengthy, "stream": edge.streams}
        return LoadFigures(
            in_flight={kind: lane.busy for kind, lane in lanes.items()},
            refused={kind: lane.turned_away for kind, lane in lanes.items()}
            | {"body": bodies.turned_away, "connection": ended["refused"]},
            body_bytes=bodies.held,
            connections=self._watch.open,
            ended={reason: number for reason, number in ended.items() if reason != "refused"}
            | {"slowBody": bodies.too_slow},
        )


class _Server(web.Server):
    def __init__(self, made: web.Server, edge: Edge, watch: Connections) -> None:
        super().__init__(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=made._loop,  # noqa: SLF001
            **made._kwargs,  # noqa: SLF001
        )
        self._edge = edge
        self._watch = watch

    def __call__(self) -> Watched:
        return _EdgeHandler(self, self._edge, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Take a connection, if there is room for it or can be made."""
        super().connection_made(handler, transport)
        self._watch.opened(cast("Watched", handler), transport)


class _EdgeHandler(Watched):
    __slots__ = ("_edge",)

    def __init__(self, server: web.Server, edge: Edge, **kwargs: Any) -> None:
        super().__init__(server, **kwargs)
        self._edge = edge

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - quotes the request
    ) -> web.StreamResponse:
        """Answer what is not HTTP, and what failed outside of the application; the connection is closed."""
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun")
        correlation = new_correlation_id()
        correlation_id.set(correlation)
        error: Exception = exc if isinstance(exc, Exception) else RuntimeError()
        if status < 500:
            _logger.info("not HTTP", extra={"reason": type(exc).__name__})
            error = RequestError("badRequest", "The request line or a header is malformed")
        response = self._edge.refuse(error, correlation)
        response.force_close()
        self._edge.finish(request, response, _OUTSIDE, correlation, 0.0)
        return response

    def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        """Write a response, after giving one that came past the edge what the edge gives."""
        # NOTE: isinstance would go through the abstract base classes of a response for every one of them.
        if type(resp) is not web.Response and isinstance(resp, web.HTTPException):
            correlation = new_correlation_id()
            correlation_id.set(correlation)
            replacement = self._edge.refuse(resp, correlation)
            self._edge.finish(request, replacement, _OUTSIDE, correlation, 0.0)
            resp = replacement
        return super().finish_response(request, resp, start_time)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log what ended a connection, unless it was a body that the client had broken."""
        if isinstance(kw.get("exc_info"), web.RequestPayloadError):
            _logger.info("body not read to its end")
        else:
            super().log_exception(*args, **kw)
