"""Server-sent events (HTML Living Standard, section 9.2.6): the data of each, as far as it is JSON."""

from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

import orjson


async def read_events(chunks: AsyncIterable[bytes]) -> AsyncIterator[Any]:
    """Yield the data of every event; one that is cut off by the end of the stream is dropped, as the standard says."""
    data: list[bytes] = []
    async for line in _lines(chunks):
        if line:
            name, _, value = line.partition(b":")
            if name == b"data":
                data.append(value.removeprefix(b" "))
        elif data:
            text, data = b"\n".join(data), []
            yield orjson.loads(text)


async def _lines(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Split at LF, CRLF or CR."""
    rest = b""
    async for chunk in chunks:
        text = rest + chunk
        # A CR at the end may be the first half of a CRLF.
        held = b"\r" if text.endswith(b"\r") else b""
        *lines, rest = text.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        rest += held
        for line in lines:
            yield line
