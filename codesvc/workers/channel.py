"""What a worker and its supervisor say to each other: messages over a pair of sockets.

    | kind, 1 byte | number, 4 bytes | length, 4 bytes | body |        in network order

``number`` ties an answer to its question; 0 is no answer to anything. The end of the stream is the end of the other.
"""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import suppress
from enum import IntEnum
from typing import Final, NamedTuple

_HEAD: Final = struct.Struct("!BII")


class Kind(IntEnum):
    """What a message is."""

    READY = 1
    """A worker accepts connections."""
    FIGURES = 2
    """A worker's figures: asked for, or told unasked every second, which is its sign of life, too."""
    GATHER = 3
    """A worker is asked for metrics: its own figures, and it wants those of all others."""
    ASK = 4
    """The supervisor wants figures."""
    OTHERS = 5
    """The answer to GATHER: the figures of each other process, one a line."""
    DRAIN = 6
    """The whole service is to end."""


class Message(NamedTuple):
    """One message."""

    kind: Kind
    number: int
    body: bytes


async def messages(reader: asyncio.StreamReader) -> AsyncIterator[Message]:
    """Yield what the other says until it has gone, also in the middle of a message."""
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            kind, number, length = _HEAD.unpack(await reader.readexactly(_HEAD.size))
            yield Message(Kind(kind), number, await reader.readexactly(length))


def send(writer: asyncio.StreamWriter, kind: Kind, number: int = 0, body: bytes = b"") -> None:
    """Say something; never waits, and says nothing to one that has gone."""
    if not writer.is_closing():
        writer.write(_HEAD.pack(kind, number, len(body)) + body)
