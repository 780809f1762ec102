"""Replies whose body is made while it is sent, for what is long or goes on for long."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from logging import getLogger
from typing import Final, final

from aiohttp import hdrs, web

_STALLED_SECONDS: Final = 30.0
"""A reader that takes nothing for so long has gone away without a word, or may as well have."""

_logger = getLogger(__name__)


@final
class Stream(web.StreamResponse):
    """A reply of status 200 whose body comes from ``body``, piece by piece.

    A handler returns it unsent: the edge puts its headers on, and then sends it. Whatever can be refused has to be
    refused before, since an error in the middle can only break the connection off.

    Attributes:
        endless: whether it goes on until something happens, so that a process that is to end does not wait for it.
        sent: the bytes of its body that were sent.

    """

    def __init__(
        self,
        body: AsyncGenerator[bytes, None],
        *,
        content_type: str,
        endless: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(headers=headers)
        self.headers[hdrs.CONTENT_TYPE] = content_type
        self.endless = endless
        self.sent = 0
        self._pieces = body

    async def send(self, request: web.Request) -> None:
        """Send it to its end, or for as long as somebody reads it.

        A piece is only asked for when the one before is on its way; a reader who takes none is cut off.
        """
        try:
            async with aclosing(self._pieces) as body:
                # Left in its middle, a generator would be closed only when the collector comes by.
                await self.prepare(request)
                if request.method != hdrs.METH_HEAD:
                    async for piece in body:
                        await self._send_piece(piece)
            await self.write_eof()
        except ConnectionError:
            pass  # the reader has gone
        except TimeoutError:
            _break_off(request)
        except Exception as error:  # noqa: BLE001 - it is too late to say so in the reply
            _logger.warning("reply broken off", extra={"cause": type(error).__name__})
            _break_off(request)

    async def discard(self) -> None:
        """Give it up before anything was sent."""
        await self._pieces.aclose()

    async def _send_piece(self, piece: bytes) -> None:
        async with asyncio.timeout(_STALLED_SECONDS):
            await self.write(piece)
        self.sent += len(piece)


def _break_off(request: web.Request) -> None:
    """Cut the connection, by which a reader can tell that the body has no end."""
    if request.transport is not None:
        request.transport.abort()
