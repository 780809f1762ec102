"""A TCP proxy that does to connections what networks do: cut, stall, reset, and lose replies."""

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

_CHUNK = 64 * 1024
_LOOPBACK = "127.0.0.1"

# An OP_MSG begins with a header of 16 bytes, flags of 4, and a section of kind 0, whose document's first element is the
# command's name (MongoDB wire protocol).
_NAME_AT = 16 + 4 + 1 + 4 + 1


class Proxy:
    """Listens on a free port of the loopback and passes everything on to ``port``. Use as an async context manager.

    Attributes:
        accepted: connections so far.
        swallowed: replies that were lost on purpose so far.
        replied: bytes passed back to clients so far.

    """

    def __init__(self, port: int) -> None:
        self.accepted = 0
        self.swallowed = 0
        self.replied = 0
        self._upstream = port
        self._port = 0
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._lose: tuple[Callable[[bytes], bool], int] | None = None
        self._delay: Callable[[bytes], bool] | None = None
        self._delayed: list[bytes] = []
        self._cuts: list[int] = []
        self._trickle: tuple[int, float] | None = None

    @property
    def port(self) -> int:
        """The port to connect to; the same while it is down."""
        return self._port

    async def up(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, _LOOPBACK, self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Refuse connections, and reset those that there are."""
        if self._server is not None:
            server, self._server = self._server, None
            # A server that is closed in the middle of an accept forgets the connection, and its client waits forever
            # (fixed in Python 3.12); so it first stops accepting.
            asyncio.get_running_loop().remove_reader(server.sockets[0].fileno())
            for _ in range(3):
                await asyncio.sleep(0)
            server.close()
        self.reset()

    def stall(self) -> None:
        """Pass nothing on, in either direction, until it is told to flow; connections are still accepted."""
        self._flowing.clear()

    def trickle(self, size: int, pause: float) -> None:
        """Pass replies back at most ``size`` bytes at a time, ``pause`` seconds apart, until it is told to flow."""
        self._trickle = (size, pause)

    def flow(self) -> None:
        """Pass on what has stood still, and all that follows."""
        self._trickle = None
        self._flowing.set()

    def reset(self) -> None:
        """Reset every connection (RST, not FIN)."""
        for connection in list(self._connections):
            connection.reset()

    def lose_replies(self, to: Callable[[bytes], bool], *, times: int = 1) -> None:
        """Let requests for which ``to`` is true through, wait for the reply, throw it away and reset the connection."""
        self._lose = (to, times)

    def delay_request(self, which: Callable[[bytes], bool]) -> None:
        """Keep the next request for which ``which`` is true from the server, and reset its connection."""
        self._delay = which

    async def deliver(self) -> None:
        """Let the server have the request that was kept, and wait until it has carried it out."""
        reader, writer = await asyncio.open_connection(_LOOPBACK, self._upstream)
        writer.write(self._delayed.pop())
        assert await reader.read(_CHUNK)
        writer.close()
        await writer.wait_closed()

    def cut_replies_after(self, *sizes: int) -> None:
        """Reset one connection after each so many bytes passed back over it, in the order of connecting."""
        self._cuts.extend(sizes)

    async def __aenter__(self) -> Self:
        await self.up()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.down()
        self._flowing.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # The transports close their sockets on the loop's next rounds.
        await asyncio.sleep(0.01)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A coroutine as the callback would be a task of the server's own, which complains when it is cancelled.
        task = asyncio.create_task(self._pass_on(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            server_reader, server_writer = await asyncio.open_connection(_LOOPBACK, self._upstream)
        except BaseException:
            writer.transport.abort()
            raise
        connection = _Connection(writer, server_writer, self._cuts.pop(0) if self._cuts else None)
        self._connections.add(connection)
        try:
            await asyncio.gather(
                self._requests(reader, server_writer, connection),
                self._replies(server_reader, writer, connection),
            )
        finally:
            self._connections.discard(connection)
            connection.close()

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: "_Connection"
    ) -> None:
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                await self._flowing.wait()
                if self._delay is not None and self._delay(chunk):
                    self._delay = None
                    self._delayed.append(chunk)
                    connection.reset()
                    return
                if self._lose is not None and self._lose[0](chunk):
                    connection.losing = True
                    what, times = self._lose
                    self._lose = (what, times - 1) if times > 1 else None
                writer.write(chunk)
                await writer.drain()
        with suppress(OSError):
            writer.write_eof()

    async def _replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: "_Connection"
    ) -> None:
        with suppress(OSError):
            while chunk := await reader.read(self._trickle[0] if self._trickle else _CHUNK):
                await self._flowing.wait()
                if self._trickle:
                    await asyncio.sleep(self._trickle[1])
                if connection.losing:
                    self.swallowed += 1
                    connection.reset()
                    return
                if connection.left is not None:
                    chunk = chunk[: connection.left]
                    connection.left -= len(chunk)
                self.replied += len(chunk)
                writer.write(chunk)
                await writer.drain()
                if connection.left == 0:
                    connection.reset()
                    return
        with suppress(OSError):
            writer.write_eof()


def command(*names: str) -> Callable[[bytes], bool]:
    """Tell whether bytes begin a message to MongoDB with one of these commands."""
    wanted = {name.encode() for name in names}

    def is_wanted(chunk: bytes) -> bool:
        return chunk[_NAME_AT : _NAME_AT + 64].partition(b"\0")[0] in wanted

    return is_wanted


class _Connection:
    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter, left: int | None) -> None:
        self.losing = False
        self.left = left
        self._client = client
        self._server = server

    def reset(self) -> None:
        raw = self._client.get_extra_info("socket")
        if raw is not None:
            # Without lingering, close sends RST (socket(7), SO_LINGER).
            with suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._client.transport.abort()
        self._server.transport.abort()

    def close(self) -> None:
        self._client.close()
        self._server.close()
