"""What a load balancer, an orchestrator and a scraper ask."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from logging import getLogger
from typing import Final

from aiohttp import hdrs, web

from codesvc.errors import DatabaseUnavailableError, DrainingError
from codesvc.observability.telemetry import Telemetry
from codesvc.web.handlers import JSON
from codesvc.web.problems import RequestError

READY_TIMEOUT: Final = 2.0
"""Seconds that the database may take to answer."""

_OK: Final = b'{"status":"ok"}'
_logger = getLogger(__name__)


class Health:
    """Tells whether the process lives, and whether it should be sent requests."""

    def __init__(self, *, ready: Callable[[], Awaitable[bool]], draining: Callable[[], bool]) -> None:
        self._ready = ready
        self._draining = draining

    async def alive(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """Answer, which is all that is asked."""
        return web.Response(body=_OK, content_type=JSON)

    async def ready(self, request: web.Request) -> web.Response:  # noqa: ARG002
        """Answer 200 only while MongoDB does and the process is to stay."""
        if self._draining():
            raise DrainingError("This process is shutting down")
        if not await self._database_answers():
            raise DatabaseUnavailableError("The database does not answer")
        return web.Response(body=_OK, content_type=JSON)

    async def _database_answers(self) -> bool:
        try:
            async with asyncio.timeout(READY_TIMEOUT):
                return await self._ready()
        except Exception as error:  # noqa: BLE001 - whatever it was, the database does not answer
            _logger.warning("not ready", extra={"reason": type(error).__name__})
            return False


class Metrics:
    """Shows the metrics to a scraper."""

    def __init__(
        self, telemetry: Telemetry, others: Callable[[bytes], Awaitable[Sequence[bytes]]] | None = None
    ) -> None:
        self._telemetry = telemetry
        self._others = others

    async def show(self, request: web.Request) -> web.Response:
        """Render every metric, of all processes behind this address as one."""
        accept = request.headers.getall(hdrs.ACCEPT, [])
        if self._others is None:
            body, content_type = self._telemetry.render(accept)
        else:
            own = self._telemetry.figures()
            try:
                others = await self._others(own)
            except TimeoutError:
                # Nothing at all is better than counters that seem to fall.
                raise RequestError("metricsUnavailable", "The other processes cannot be asked") from None
            body, content_type = self._telemetry.render_merged([own, *others], accept)
        response = web.Response(body=body)
        response.headers[hdrs.CONTENT_TYPE] = content_type
        return response
