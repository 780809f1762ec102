"""Callers in a closed loop, and what they see: how long it took those who were served, and how many were refused."""

import asyncio
import re
import time
from dataclasses import dataclass, field
from typing import Final

_PAUSE_SECONDS: Final = 0.05
"""How long a caller who was refused waits; Retry-After asks for twenty times that."""

_LENGTH: Final = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


@dataclass
class Seen:
    """What callers saw: seconds of each request that was served, and how many were refused or went wrong."""

    served: list[float] = field(default_factory=list)
    refused: int = 0
    wrong: list[bytes] = field(default_factory=list)

    @property
    def slowest(self) -> float:
        """The 99th percentile of those served, in seconds."""
        return sorted(self.served)[int(0.99 * len(self.served))]


async def ask(port: int, request: bytes, *, callers: int, seconds: float) -> Seen:
    """Send the request again and again, from so many connections, for so long."""
    seen = Seen()
    until = time.monotonic() + seconds

    async def call() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        while time.monotonic() < until:
            begun = time.monotonic()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            assert length is not None, head
            body = await reader.readexactly(int(length[1]))
            if head.startswith(b"HTTP/1.1 200 "):
                seen.served.append(time.monotonic() - begun)
            elif head.startswith(b"HTTP/1.1 503 ") and b'"overloaded"' in body:
                seen.refused += 1
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                seen.wrong.append(head + body)
        writer.close()

    await asyncio.gather(*(call() for _ in range(callers)))
    return seen
