"""How much this process takes on at a time: requests, long replies, and bytes of bodies.

Whatever comes beyond is told so at once (503 ``overloaded``), while there is nothing to be undone and next to nothing
was spent on it: a queue without a bound would cost memory, and would in the end serve nobody in time.
"""

import asyncio
from functools import partial
from typing import Final

from aiohttp import web

from codesvc.errors import OverloadedError
from codesvc.web.problems import RequestError

SMALL_BODY: Final = 16 << 10
"""Bodies up to so many bytes are not counted: the number of connections bounds them."""

GRACE_SECONDS: Final = 10.0
"""What every body may take, however small it is."""

LEAST_RATE: Final = 64 << 10
"""Bytes of a body in a second, from its beginning on, that a caller has to send at the least."""


class Lane:
    """Places for what is under way at once.

    Attributes:
        busy: how many are taken.
        turned_away: how many found none.

    """

    __slots__ = ("busy", "most", "turned_away")

    def __init__(self, most: int) -> None:
        self.most = most
        self.busy = 0
        self.turned_away = 0

    def turn_away(self) -> OverloadedError:
        """Count one who has found no place; return what to tell them."""
        self.turned_away += 1
        return OverloadedError("This process has as many requests under way as it takes")


class Bodies:
    """Reads bodies, as long as those under way are not too many bytes together.

    Attributes:
        held: bytes of bodies whose requests are under way.
        turned_away: how many found no room.
        too_slow: how many were not sent in time.

    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0
        self.turned_away = 0
        self.too_slow = 0

    async def read(self, request: web.Request, limit: int) -> bytes:
        """Read a body of at most ``limit`` bytes; it counts until the reply is sent.

        Raises:
            web.HTTPRequestEntityTooLarge: it is longer.
            OverloadedError: there is no room for it now.
            RequestError: requestTimeout, it came too slowly.

        """
        content = request.content
        announced = request.content_length or 0
        if content.is_eof() and announced <= SMALL_BODY:
            return await self._all(request, _Share(self), limit, None)
        share = _Share(self)
        share.grow(min(announced, limit))
        try:
            async with asyncio.timeout(GRACE_SECONDS) as patience:
                return await self._all(request, share, limit, patience)
        except TimeoutError:
            self.too_slow += 1
            raise RequestError("requestTimeout", "The body was not sent in time") from None

    async def _all(
        self, request: web.Request, share: "_Share", limit: int, patience: asyncio.Timeout | None
    ) -> bytes:
        begun = asyncio.get_running_loop().time() if patience is not None else 0.0
        content = request.content
        chunks: list[bytes] = []
        size = 0
        while chunk := await content.readany():
            size += len(chunk)
            if size > limit:
                raise web.HTTPRequestEntityTooLarge(limit, size)
            share.grow(size)
            chunks.append(chunk)
            if patience is not None:
                patience.reschedule(begun + GRACE_SECONDS + size / LEAST_RATE)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def keep(self, size: int) -> None:
        """Count what came of a body that was compressed, likewise; raises OverloadedError."""
        _Share(self).grow(size)

    def take(self, size: int) -> None:
        """Count ``size`` bytes more.

        Raises:
            OverloadedError: they are too many.

        """
        if self.held + size > self._most:
            self.turned_away += 1
            raise OverloadedError("This process has as many bytes of bodies under way as it takes")
        self.held += size

    def give_back(self, size: int) -> None:
        """Count ``size`` bytes less."""
        self.held -= size


class _Share:
    """What one request has of it, until the end of its task: aiohttp gives each request one of its own."""

    __slots__ = ("_bodies", "_size")

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._size = 0

    def grow(self, size: int) -> None:
        """Have ``size`` bytes, if that is not what there is already."""
        if size <= SMALL_BODY or size <= self._size:
            return
        self._bodies.take(size - self._size)
        if not self._size:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - a coroutine that runs is run by a task
            task.add_done_callback(partial(_end, self))
        self._size = size

    def end(self) -> None:
        """Have nothing any more."""
        self._bodies.give_back(self._size)
        self._size = 0


def _end(share: _Share, _task: asyncio.Task[None]) -> None:
    share.end()


BODIES: Final = web.AppKey("bodies", Bodies)
