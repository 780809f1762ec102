"""An object store of one object that keeps to HTTP as far as the test lets it."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from aiohttp import web

RANGE = re.compile(r"bytes=(\d+)-(\d+)")


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: its number, and the range that it names, both ends included."""

    number: int
    first: int
    last: int
    if_match: str | None
    request: web.Request


Behaviour = Callable[[Asked], Awaitable[web.StreamResponse | None]]


async def well(_asked: Asked) -> None:
    """Answer as a store should."""


@dataclass
class RangeServer:
    """Serves ``data`` under any key. ``behave`` may answer a request in place of it; None leaves it to the server.

    Attributes:
        asked: the requests so far.
        open_now: requests that are being answered.

    """

    data: bytes
    etag: str = '"v1"'
    behave: Behaviour = well
    asked: list[Asked] = field(default_factory=list)
    open_now: int = 0
    port: int = 0
    _runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/{bucket}/{key:.*}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def part(
        self,
        asked: Asked,
        *,
        etag: str | None = None,
        content_range: str | None = None,
        body: bytes | None = None,
    ) -> web.Response:
        """Make the 206 that belongs to a request, or one that differs from it."""
        last = min(asked.last, len(self.data) - 1)
        headers = {"Content-Range": content_range or f"bytes {asked.first}-{last}/{len(self.data)}"}
        headers["ETag"] = self.etag if etag is None else etag
        return web.Response(
            status=206, headers=headers, body=self.data[asked.first : last + 1] if body is None else body
        )

    def whole(self) -> web.Response:
        """Make a 200 with the whole object, as a store does that knows no ranges."""
        return web.Response(body=self.data, headers={"ETag": self.etag})

    async def breaking_off(self, asked: Asked, after: int) -> web.StreamResponse:
        """Send so many bytes of a part, then end the connection."""
        whole = self.part(asked)
        assert isinstance(whole.body, bytes)
        response = web.StreamResponse(status=206, headers=whole.headers)
        response.content_length = len(whole.body)
        await response.prepare(asked.request)
        if after:
            await response.write(whole.body[:after])
            await asyncio.sleep(0.01)
        assert asked.request.transport is not None
        asked.request.transport.close()
        return response

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        found = RANGE.fullmatch(request.headers.get("Range", ""))
        assert found is not None
        asked = Asked(len(self.asked), int(found[1]), int(found[2]), request.headers.get("If-Match"), request)
        self.asked.append(asked)
        self.open_now += 1
        try:
            with suppress(ConnectionError):
                response = await self.behave(asked)
            if response is None:
                response = self._as_it_should(asked)
            return response
        finally:
            self.open_now -= 1

    def _as_it_should(self, asked: Asked) -> web.StreamResponse:
        if asked.if_match not in {None, self.etag}:
            return error(412, "PreconditionFailed")
        if asked.first >= len(self.data):
            return error(416, "InvalidRange")
        return self.part(asked)


def error(status: int, code: str) -> web.Response:
    """Make an error as S3 does."""
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>SECRET</Message></Error>'
    return web.Response(status=status, text=body, content_type="application/xml")
