"""Compressed bodies (RFC 9110, section 8.4.1), inflated by us and not by aiohttp.

aiohttp inflates whatever comes in on the event loop, that of a request without a token included, and goes on after the
refusal to find the body's end: a megabyte that becomes a gigabyte held every caller up for seconds. Here a body is
inflated after its sender has shown a token, in a thread, and no further than to the limit.
"""

import asyncio
import zlib
from typing import Final

from codesvc.web.problems import RequestError

CODINGS: Final = frozenset({"gzip", "deflate"})

_GZIP: Final = 31
_ZLIB: Final = 15
_BARE: Final = -15
_METHOD_DEFLATE: Final = 8
# Each costs some microseconds, however little it holds; no client sends more than one.
_MOST_MEMBERS: Final = 100


async def inflated(body: bytes, coding: str, limit: int) -> bytes:
    """Return what ``body`` holds, at most ``limit`` bytes.

    Raises:
        RequestError: payloadTooLarge, or invalidJson where it is not of this coding, or cut short.

    """
    return await asyncio.to_thread(_inflated, body, coding, limit)


def _inflated(body: bytes, coding: str, limit: int) -> bytes:
    whole = b""
    for _ in range(_MOST_MEMBERS):
        try:
            inflater = zlib.decompressobj(_window(body, coding))
            # One more byte than may be tells that there are too many, and lets the end of all others be seen.
            whole += inflater.decompress(body, limit - len(whole) + 1)
        except zlib.error:
            raise _unreadable() from None
        if len(whole) > limit:
            raise RequestError("payloadTooLarge", f"The largest body is {limit} bytes")
        if not inflater.eof:
            raise _unreadable()
        body = inflater.unused_data
        if not body:
            return whole
        if coding != "gzip":
            break
    raise _unreadable()


def _window(body: bytes, coding: str) -> int:
    if coding == "gzip":
        return _GZIP
    # Some senders leave the header of zlib out (RFC 9110, section 8.4.1.2).
    return _ZLIB if body[:1] and body[0] & 0x0F == _METHOD_DEFLATE else _BARE


def _unreadable() -> RequestError:
    return RequestError("invalidJson", "The body cannot be read")
